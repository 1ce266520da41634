"""The validate step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/validate", packages_to_install=[], install_kfp_package=False)
def validate(usecase: str, run_id: str, lake: str, counts: dsl.Output[dsl.Metrics]) -> str:
    """Prove by counting that nothing was lost or repeated, and check the events against their contracts.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        lake: JSON text: the Delta version of each stream's table.
        counts: Events produced, landed, repeated and refused.

    Returns:
        The same lake versions, now checked.
    """
    from fasttrack.steps.validate import validate as run

    found = run(usecase, run_id, lake)
    for name, value in found.counts.items():
        counts.log_metric(name, value)
    return lake
