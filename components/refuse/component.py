"""The refuse step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/refuse", packages_to_install=[], install_kfp_package=False)
def refuse(usecase: str, run_id: str, rounds: int) -> str:
    """End the run: the gate refused the models of all rounds.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        rounds: How many rounds there were.

    Returns:
        Nothing, ever: the step fails with the gate's reasons.
    """
    from fasttrack.steps.refuse import refuse as run

    return run(usecase, run_id, rounds)
