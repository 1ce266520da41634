"""All objects of a use case, by the file that they are written to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast, get_args

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.drain_objects import drain_objects
from fasttrack.kubeflow.experiment import experiment
from fasttrack.kubeflow.graph import inference_graph
from fasttrack.kubeflow.images import INGEST, SPARK, TRAINER, image
from fasttrack.kubeflow.inference import NO_DIGEST, inference_service, serving_runtime, storage_uri
from fasttrack.kubeflow.kafka_access import KafkaAccess, user_name
from fasttrack.kubeflow.kafka_objects import kafka_topics, kafka_users
from fasttrack.kubeflow.monitoring import alerts, monitors
from fasttrack.kubeflow.names import is_dns_1035, is_dns_1123_subdomain
from fasttrack.kubeflow.pods import Object
from fasttrack.kubeflow.routes import http_route, role_configuration
from fasttrack.kubeflow.run_options import RunOptions
from fasttrack.kubeflow.scaling import Autoscaler, Scaling
from fasttrack.kubeflow.schedules import check_cron
from fasttrack.kubeflow.sizes import resized
from fasttrack.kubeflow.source_objects import source_objects
from fasttrack.kubeflow.spark import scheduled_spark_application, spark_application
from fasttrack.kubeflow.trainjob import train_job, training_runtime
from fasttrack.tuning.space import dimensions
from fasttrack.usecase import UseCase

#: What can be left out where a cluster hasn't the operator for it.
PARTS = ("kafka", "monitoring", "route", "schedules", "sources")


@dataclass(frozen=True)
class Options(RunOptions):
    """What a cluster has and a use case doesn't say.

    Attributes, beside those that the launchers have to know:
        scaling: how far the servers scale.
        retrain: when the pipeline runs by itself, as cron writes it, in UTC; `fasttrack submit` tells KFP.
        refresh: when the feature table is built by itself; without one, the schedule is suspended.
        kafka_cluster: name of the Strimzi Kafka.
        kafka_namespace: where its topic operator looks; by default where everything is.
        kafka_secrets_copied: where the Kafka is in another namespace: something copies the Secrets of its CA and of
            the users to the pods'.
        kafka_replicas: copies of each partition.
        gateway: name of the Gateway that callers come through.
        gateway_namespace: its namespace, if it is another one.
        hostname: the name that callers use.
        graph_namespace: write an InferenceGraph into this namespace, which must not enforce `restricted`.
        continuous_drain: drain all the time, and not only at each run.
        leave_out: parts that the cluster has no operator for, out of `PARTS`.
    """

    scaling: Scaling = field(default_factory=Scaling)
    retrain: str = ""
    refresh: str = ""
    kafka_cluster: str = "kafka"
    kafka_namespace: str = ""
    kafka_secrets_copied: bool = False
    kafka_replicas: int = 3
    gateway: str = "fasttrack"
    gateway_namespace: str = ""
    hostname: str = ""
    graph_namespace: str = ""
    continuous_drain: bool = False
    leave_out: tuple[str, ...] = ()


def scaling(replicas: str, autoscaler: str) -> Scaling:
    """The scaling of `replicas` (``2-8``, or ``3`` for a fixed number) by `autoscaler`.

    Raises:
        ConfigurationError: one of them can't be used.
    """
    least, _, most = replicas.partition("-")
    if not least.isdecimal() or not (most or least).isdecimal() or not 1 <= int(least) <= int(most or least):
        raise ConfigurationError(
            f"{replicas!r} is not a number of pods.",
            where="--replicas",
            fix="Write the least and the most, such as 2-8.",
        )
    if autoscaler not in get_args(Autoscaler):
        raise ConfigurationError(
            f"{autoscaler!r} is no autoscaler.",
            where="--autoscaler",
            fix=f"Choose from {', '.join(get_args(Autoscaler))}.",
        )
    return Scaling(int(least), int(most or least), cast(Autoscaler, autoscaler))


def split_name(text: str, where: str) -> tuple[str, str]:
    """Namespace and name out of ``NAMESPACE/NAME`` or ``NAME``.

    Raises:
        ConfigurationError: it is neither.
    """
    *namespace, name = text.split("/")
    if len(namespace) > 1 or not is_dns_1123_subdomain(name) or not all(map(is_dns_1035, namespace)):
        raise ConfigurationError(f"{text!r} is not a name.", where=where, fix="Write NAME or NAMESPACE/NAME.")
    return "".join(namespace), name


def kafka_access(usecase: UseCase, options: Options, namespace: str, role: str) -> KafkaAccess | None:
    """Who a pod of a role (``drain``, ``ingest``) is for Kafka; None where no users are compiled.

    Raises:
        ConfigurationError: its pod can't see the certificate.
    """
    if "kafka" in options.leave_out:
        return None
    there = options.kafka_namespace or namespace
    if there != namespace and not options.kafka_secrets_copied:
        raise ConfigurationError(
            f"pods in {namespace} can't come to Kafka by TLS: Strimzi makes the certificates in {there}, and a pod "
            "mounts Secrets of its own namespace only.", where="--kafka",
            fix="Let something copy them (docs/how-to/deploy.md) and say --kafka-secrets-copied, or compile with "
            "--leave-out kafka for a listener without TLS.",
        )  # fmt: skip
    return KafkaAccess(options.kafka_cluster, user_name(usecase, role))


# Without a schedule of the user's own, this stands in the suspended object.
_REFRESH = "30 1 * * *"


def documents(usecase: UseCase, options: Options, registry: str, namespace: str) -> dict[str, list[Object]]:
    """The objects besides the pipeline's own and the use case's ConfigMap, by file name.

    Raises:
        ConfigurationError: an option can't be used, or a stream's topic can't be made.
    """
    if unknown := sorted(set(options.leave_out) - set(PARTS)):
        raise ConfigurationError(
            f"{unknown[0]!r} can't be left out.", where="--leave-out", fix=f"Choose from {', '.join(PARTS)}."
        )
    made = {
        "experiment.yaml": [_experiment(usecase, options, registry, namespace)],
        "features.yaml": [_features(usecase, options, registry, namespace)],
        "inferenceservice.yaml": [_service(usecase, options, registry, namespace)],
        "runtimes.yaml": _runtimes(registry, namespace),
        "jobs/trainjob.yaml": [_train_job(usecase, options, registry, namespace)],
        "roles.yaml": [role_configuration(usecase, namespace=namespace)],
    }
    if options.graph_namespace:
        graph = inference_graph(usecase, namespace=options.graph_namespace, service_namespace=namespace)
        made["inferencegraph.yaml"] = [graph]
    made |= _optional(usecase, options, registry, namespace)
    return {name: [resized(each, options.sizes) for each in objects] for name, objects in made.items()}


def _optional(usecase: UseCase, options: Options, registry: str, namespace: str) -> dict[str, list[Object]]:
    made: dict[str, list[Object]] = {}
    if "kafka" not in options.leave_out:
        where = options.kafka_namespace or namespace
        cluster, replicas = options.kafka_cluster, options.kafka_replicas
        topics = kafka_topics(usecase, namespace=where, cluster=cluster, replicas=replicas)
        made["kafka.yaml"] = topics + kafka_users(usecase, namespace=where, cluster=cluster)
    sources = [] if "sources" in options.leave_out else _sources(usecase, options, registry, namespace)
    if "monitoring" not in options.leave_out:
        read = any(each["kind"] == "Deployment" for each in sources)
        rules = alerts(usecase, namespace=namespace, drained=options.continuous_drain, sources=read)
        made["monitoring.yaml"] = [*monitors(usecase, namespace=namespace), rules]
    if "route" not in options.leave_out:
        made["route.yaml"] = [
            http_route(
                usecase,
                namespace=namespace,
                gateway=options.gateway,
                gateway_namespace=options.gateway_namespace,
                hostname=options.hostname,
            )
        ]
    if sources:
        made["sources.yaml"] = sources
    if options.continuous_drain:
        monitored = "monitoring" not in options.leave_out
        access = kafka_access(usecase, options, namespace, "drain")
        made["drain.yaml"] = drain_objects(
            usecase, image=image(registry, INGEST), namespace=namespace, kafka=access, monitored=monitored
        )
    if "schedules" not in options.leave_out:
        made["schedules.yaml"] = _schedules(usecase, options, registry, namespace)
    return made


def _sources(usecase: UseCase, options: Options, registry: str, namespace: str) -> list[Object]:
    return source_objects(
        usecase,
        image=image(registry, INGEST),
        namespace=namespace,
        kafka=kafka_access(usecase, options, namespace, "ingest"),
        kafka_namespace=options.kafka_namespace or namespace,
        connect=f"{options.kafka_cluster}-connect",
        monitored="monitoring" not in options.leave_out,
    )


def _experiment(usecase: UseCase, options: Options, registry: str, namespace: str) -> Object:
    return experiment(usecase, image=image(registry, TRAINER), namespace=namespace, gpus=options.gpus, suspend=True)


def _features(usecase: UseCase, options: Options, registry: str, namespace: str) -> Object:
    return spark_application(
        usecase,
        image=image(registry, SPARK),
        namespace=namespace,
        name=f"{usecase.name}-features",
        executors=options.executors,
        suspend=True,
    )


def _train_job(usecase: UseCase, options: Options, registry: str, namespace: str) -> Object:
    """The first candidate with the middle of each range: what the search begins with."""
    candidate = usecase.models[0]
    return train_job(
        usecase,
        image=image(registry, TRAINER),
        namespace=namespace,
        name=f"{usecase.name}-train",
        features=f"{pods.DATA_PATH}/lake/{usecase.name}/features",
        architecture=candidate.architecture,
        parameters={dimension.parameter: dimension.middle() for dimension in dimensions(candidate)},
        out=f"{pods.DATA_PATH}/runs/{usecase.name}/by-hand",
        gpus=options.gpus,
        suspend=True,
    )


def _service(usecase: UseCase, options: Options, registry: str, namespace: str) -> Object:
    """Stopped, and of no version: the publish step gives it one."""
    return inference_service(
        usecase,
        registry=registry,
        namespace=namespace,
        version=0,
        digest=NO_DIGEST,
        storage_uri=storage_uri(usecase, NO_DIGEST),
        gpus=options.gpus,
        scaling=options.scaling,
        stopped=True,
    )


def _runtimes(registry: str, namespace: str) -> list[Object]:
    trainer = image(registry, TRAINER)
    both = [training_runtime(image=trainer, namespace=namespace, gpus=gpus) for gpus in (False, True)]
    return [*both, serving_runtime(registry=registry, namespace=namespace)]


def _schedules(usecase: UseCase, options: Options, registry: str, namespace: str) -> list[Object]:
    return [
        scheduled_spark_application(
            usecase,
            image=image(registry, SPARK),
            namespace=namespace,
            schedule=check_cron(options.refresh or _REFRESH, "--refresh"),
            executors=options.executors,
            suspend=not options.refresh,
        ),
    ]
