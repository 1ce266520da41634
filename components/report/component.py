"""The report step's face to Kubeflow Pipelines: the exit handler."""

from kfp import dsl


@dsl.component(base_image="fasttrack/report", packages_to_install=[], install_kfp_package=False)
def report(usecase: str, run_id: str, status: dsl.PipelineTaskFinalStatus) -> str:
    """Write the run report, however the run ended, and check that no step was skipped silently.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        status: How the pipeline ended; given by KFP.

    Returns:
        succeeded, refused or failed.
    """
    from fasttrack.steps.report import report as run

    return run(usecase, run_id, status.state, status.error_message or "")
