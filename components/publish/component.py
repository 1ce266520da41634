"""The publish step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/publish", packages_to_install=[], install_kfp_package=False)
def publish(usecase: str, run_id: str, version: str) -> str:
    """Serve the registered version.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        version: The registered version.

    Returns:
        JSON text: where the model is served.
    """
    from fasttrack.steps.publish import publish as run

    return run(usecase, run_id, version)
