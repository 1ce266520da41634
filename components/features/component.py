"""The features step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/features", packages_to_install=[], install_kfp_package=False)
def features(usecase: str, run_id: str, lake: str, table: dsl.Output[dsl.Dataset]) -> str:
    """Build the point-in-time feature table and refresh the online store.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        lake: JSON text: the Delta version of each stream's table.
        table: Fingerprint, rows and place of the feature table.

    Returns:
        Where the feature table lies.
    """
    from fasttrack.steps.features import features as run

    found = run(usecase, run_id, lake)
    table.metadata.update(found.metadata)
    return found.path
