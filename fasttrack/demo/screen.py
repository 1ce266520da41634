"""The one screen at the end of the demo, made from the report alone."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_SCORES = ("auc", "average_precision", "calibration_error", "mae", "interval_coverage")


def render(report: dict[str, Any], console: Console) -> None:
    """Print events, model, gate, prediction and where to go on.

    Args:
        report: the demo's report (see `fasttrack.demo.report.build`).
        console: where to print.
    """
    console.print(Panel(_events(report["events"]), title="Events", title_align="left"))
    console.print(Panel(Group(_models(report), _gate(report)), title="Model", title_align="left"))
    console.print(Panel(_prediction(report), title="Prediction over HTTP", title_align="left"))
    console.print(_footer(report))
    # Not wrapped: it is there to be copied.
    console.print("\nThe same again:", style="bold")
    console.out(report["curl"], highlight=False)


def _events(events: dict[str, Any]) -> Group:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stream", "produced", "landed", "duplicates", "dead-lettered", ""):
        made.add_column(column, justify="left" if column in ("stream", "") else "right")
    for name, row in [*events["streams"].items(), ("total", events)]:
        counts = [row[key] for key in ("produced", "landed", "duplicates", "dead_lettered")]
        made.add_row(name, *(f"{count:,}" for count in counts), "adds up" if row["balanced"] else "DOES NOT ADD UP")
    sums = f"{events['produced']:,} = {events['landed']:,} + {events['duplicates']:,} + {events['dead_lettered']:,}"
    return Group(made, Text(f"in = landed + duplicates + dead-lettered: {sums}", style="dim"))


def _models(report: dict[str, Any]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("scores on the test split")
    for score in _SCORES:
        made.add_column(score.replace("_", " "), justify="right")
    rows = {f"{report['model']['architecture']} (chosen)": report["scores"], **report["baselines"]}
    for name, scores in rows.items():
        made.add_row(name, *(_number(scores.get(score)) for score in _SCORES))
    return made


def _gate(report: dict[str, Any]) -> Text:
    gate = report["gate"]
    word = "accepted" if gate["accepted"] else "refused"
    line = f"\ngate: {word} in round {gate['round']}; model {report['usecase']} version {report['model']['version']}, "
    line += str(report["model"]["digest"])[:19] + (f"\n{gate['variant']}" if gate["variant"] else "")
    return Text(line, style="bold green" if gate["accepted"] else "bold red")


def _prediction(report: dict[str, Any]) -> Group:
    answer = report["prediction"]
    found = answer["prediction"]
    entity = ", ".join(f"{key} {value}" for key, value in report["request"]["entity"].items())
    interval = found["interval"]
    head = (
        f"{entity}\n{found['class']} with probability {found['probability']:.2f}; "
        f"expected {found['value']:.0f} {found['unit']}, "
        f"{interval['coverage']:.0%} interval [{interval['lower']:.0f}, {interval['upper']:.0f}]"
    )
    if report.get("truth") is not None:
        head += f"; what came: {report['truth']:.0f} {found['unit']}"
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column, side in (("driven by", "left"), ("value", "right"), ("contribution", "right")):
        made.add_column(column, justify="left" if side == "left" else "right")
    for feature in (answer.get("explanation") or {"features": []})["features"]:
        made.add_row(feature["feature"], _value(feature["value"]), f"{feature['contribution']:+.4f}")
    tail = f"model version {answer['model']['version']}, trace id {answer['trace_id']}"
    return Group(Text(head), made, Text(tail, style="dim"))


def _footer(report: dict[str, Any]) -> Text:
    seconds = " ".join(f"{step} {value:.0f}" for step, value in report["seconds"].items())
    return Text(
        f"\n{report['total_seconds']:.0f} s in all ({seconds}), peak memory {report['peak_memory_mb']:,.0f} MB\n"
        f"API documentation: {report['gateway']}/docs",
        style="dim",
    )


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} events"
    return f"{value:,.2f}" if isinstance(value, float) else str(value if value is not None else "missing")
