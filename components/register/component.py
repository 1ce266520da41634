"""The register step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/register", packages_to_install=[], install_kfp_package=False)
def register(usecase: str, run_id: str, lake: str, model: str, round: int, package: dsl.Output[dsl.Model]) -> str:
    """Pack, sign and register the accepted model.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        lake: JSON text: the Delta version of each stream's table.
        model: Where the fitted model lies.
        round: Which attempt this is, from 1; a refusal by the gate leads to the next.
        package: Version, digest and place of the model package.

    Returns:
        The registered version.
    """
    from fasttrack.steps.register import register as run

    found = run(usecase, run_id, lake, model, round)
    package.metadata.update(found.metadata)
    return found.version
