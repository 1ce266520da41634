"""The drain step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/drain", packages_to_install=[], install_kfp_package=False)
def drain(usecase: str, run_id: str) -> str:
    """Move the events of all topics from Kafka into the lake, each exactly once.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.

    Returns:
        JSON text: the Delta version of each stream's table.
    """
    from fasttrack.steps.drain import drain as run

    return run(usecase, run_id)
