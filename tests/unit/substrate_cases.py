"""Small pipelines, one for each construct that only one side can run (see test_compile_substrates.py)."""

# No postponed annotations: KFP reads them as they are.
from typing import NamedTuple

from kfp import dsl

_STEP = {"base_image": "fasttrack/x", "packages_to_install": [], "install_kfp_package": False}


@dsl.component(**_STEP)
def say(word: str) -> str:
    return word


@dsl.component(**_STEP)
def two() -> NamedTuple("Two", [("word", str), ("names", list)]):
    return ("x", ["a"])


@dsl.component(**_STEP)
def take(values: list) -> str:
    return str(values)


@dsl.component(**_STEP)
def make(data: dsl.Output[dsl.Dataset]):
    data.metadata["x"] = "y"


@dsl.component(**_STEP)
def read(data: dsl.Input[dsl.Dataset]):
    print(data.metadata)


@dsl.component(base_image="fasttrack/x", packages_to_install=["orjson"], install_kfp_package=False)
def needy() -> str:
    return "x"


@dsl.container_component
def boxed():
    return dsl.ContainerSpec(image="busybox", command=["true"])


@dsl.pipeline(name="good")
def good(word: str, names: list = ["a", "b"]):  # noqa: B006 - KFP wants a plain default
    with dsl.ExitHandler(say(word="end")):
        said = say(word=word)
        with dsl.If(said.outputs["Output"] == "yes"):
            again = say(word="no")
            with dsl.If(again.outputs["Output"] == "no"):
                say(word=word)
        with dsl.If(word == "x"):
            say(word="x")
        with dsl.ParallelFor(names) as name:
            say(word=name)


@dsl.pipeline(name="container")
def container():
    boxed()


@dsl.pipeline(name="installs")
def installs():
    needy()


@dsl.pipeline(name="named-output")
def named_output():
    with dsl.If(two().outputs["word"] == "x"):
        say(word="x")


@dsl.pipeline(name="quote")
def quote(word: str):
    with dsl.If(word == "it's"):
        say(word="x")


@dsl.pipeline(name="loop")
def loop_over_named_output():
    with dsl.ParallelFor(two().outputs["names"]) as name:
        say(word=name)


@dsl.pipeline(name="numbers")
def numbers_in_a_list():
    take(values=[1, 2])


@dsl.pipeline(name="one-of")
def one_of_artifacts(word: str):
    with dsl.If(word == "x"):
        first = make()
    with dsl.Else():
        second = make()
    read(data=dsl.OneOf(first.outputs["data"], second.outputs["data"]))


@dsl.pipeline(name="inner")
def inner(data: dsl.Input[dsl.Dataset]):
    read(data=data)


@dsl.pipeline(name="artifact-only")
def artifact_only():
    inner(data=make().outputs["data"])
