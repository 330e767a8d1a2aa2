"""Write the Grafana dashboards of ``config/components/grafana`` (``make manifests``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).resolve().parent.parent / "config" / "components" / "grafana"
WIDTH = 24
"""Columns of a Grafana dashboard."""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    queries: tuple[tuple[str, str], ...]
    """(PromQL, legend)."""
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    rows: tuple[Row, ...]


def _quantiles(series: str, by: str, legend: str, rate: str = "5m") -> tuple[tuple[str, str], ...]:
    both = ", ".join(filter(None, ("le", by)))
    return tuple(
        (f"histogram_quantile({q}, sum by ({both}) (rate({series}[{rate}])))", f"{legend} p{int(q * 100)}".strip())
        for q in (0.5, 0.9)
    )


_CLOUD_ERRORS = "karpenter_cloudprovider_errors_total"
_ERRORS = "kaito_runtime_reconcile_errors_total"
OPERATOR = Dashboard(
    "kaito-operator",
    "kaito / operator",
    (
        Row(
            "Workspaces",
            (
                Panel(
                    "Workspaces",
                    (('sum by (phase) (max by (phase) (kaito_workspace_count{job="kaito"}))', "{{phase}}"),),
                ),
                Panel(
                    "Longest in a phase",
                    (('max by (phase) (kaito_workspace_oldest_seconds{job="kaito",phase!="succeeded"})', "{{phase}}"),),
                    "s",
                ),
                Panel(
                    "GPU nodes in use",
                    (('max by (instance_type) (kaito_workspace_gpu_nodes{job="kaito"})', "{{instance_type}}"),),
                ),
                Panel(
                    "Apply to ready", _quantiles('kaito_workspace_ready_seconds_bucket{job="kaito"}', "", "", "1h"), "s"
                ),
                Panel(
                    "Time to ready by step",
                    (("condition:kaito_workspace_step_seconds:p90_1h", "{{condition}} p90"),),
                    "s",
                ),
                Panel("Outdated workloads", (('max(kaito_workspace_outdated{job="kaito"})', "outdated"),)),
            ),
        ),
        Row(
            "Machines and the cloud",
            (
                Panel("Machines", (('max by (kind, state) (kaito_machines{job="kaito"})', "{{kind}} {{state}}"),)),
                Panel(
                    "Longest in a state",
                    (
                        (
                            'max by (kind, state) (kaito_machine_oldest_seconds{job="kaito",state!="ready"})',
                            "{{kind}} {{state}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Calls to the cloud",
                    (
                        (
                            'sum by (method) (rate(karpenter_cloudprovider_duration_seconds_count{job="kaito"}[5m]))',
                            "{{method}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Length of calls to the cloud",
                    _quantiles('karpenter_cloudprovider_duration_seconds_bucket{job="kaito"}', "method", "{{method}}"),
                    "s",
                ),
                Panel(
                    "Failed calls to the cloud",
                    (
                        (
                            'sum by (error) (rate(karpenter_cloudprovider_errors_total{job="kaito"}[5m])) or vector(0)',
                            "{{error}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Throttled",
                    (
                        (
                            f'sum(increase({_CLOUD_ERRORS}{{job="kaito",error="Throttled"}}[1h])) or vector(0)',
                            "in the last hour",
                        ),
                    ),
                    kind="stat",
                ),
            ),
        ),
        Row(
            "Controllers",
            (
                Panel(
                    "Reconciles",
                    (
                        (
                            'sum by (controller, result) (rate(controller_runtime_reconcile_total{job="kaito"}[5m]))',
                            "{{controller}} {{result}}",
                        ),
                    ),
                    "ops",
                ),
                Panel(
                    "Errors by reason",
                    (
                        (
                            f'sum by (controller, reason) (rate({_ERRORS}{{job="kaito"}}[5m])) or vector(0)',
                            "{{controller}} {{reason}}",
                        ),
                    ),
                    "ops",
                ),
                Panel(
                    "Length of reconciles",
                    _quantiles(
                        'controller_runtime_reconcile_time_seconds_bucket{job="kaito"}', "controller", "{{controller}}"
                    ),
                    "s",
                ),
                Panel(
                    "Queue depth",
                    (('sum by (controller) (workqueue_depth{job="kaito"})', "{{controller}}"),),
                ),
                Panel(
                    "Wait in the queue",
                    _quantiles('workqueue_queue_duration_seconds_bucket{job="kaito"}', "controller", "{{controller}}"),
                    "s",
                ),
                Panel(
                    "Oldest work in progress",
                    (
                        (
                            'max by (controller) (workqueue_longest_running_processor_seconds{job="kaito"})',
                            "{{controller}}",
                        ),
                    ),
                    "s",
                ),
            ),
        ),
        Row(
            "Process",
            (
                Panel(
                    "Leader",
                    (('sum by (name) (leader_election_master_status{job="kaito"})', "{{name}}"),),
                    kind="stat",
                    width=4,
                ),
                Panel("Processes up", (('sum(up{job="kaito"})', "up"),), kind="stat", width=4),
                Panel(
                    "Caches that have synced",
                    (('min by (resource) (kaito_runtime_informer_synced{job="kaito"})', "{{resource}}"),),
                ),
                Panel(
                    "Since the server spoke",
                    (
                        (
                            'max by (resource) (kaito_runtime_informer_last_event_age_seconds{job="kaito"})',
                            "{{resource}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Delay of the event loop",
                    _quantiles('kaito_runtime_event_loop_delay_seconds_bucket{job="kaito"}', "", ""),
                    "s",
                ),
                Panel(
                    "Requests to the API server",
                    (
                        (
                            'sum by (code, method) (rate(rest_client_requests_total{job="kaito"}[5m]))',
                            "{{method}} {{code}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Admission requests",
                    (
                        (
                            'sum by (code) (rate(controller_runtime_webhook_requests_total{job="kaito"}[5m])) or vector(0)',
                            "{{code}}",
                        ),
                    ),
                    "reqps",
                ),
            ),
        ),
    ),
)

_W = "kaito_sh_workspace"
MODELS = Dashboard(
    "kaito-models",
    "kaito / models",
    (
        Row(
            "Serving",
            (
                Panel(
                    "Tokens",
                    (("workspace:kaito_inference_generation_tokens:rate5m", f"{{{{{_W}}}}}"),),
                    "short",
                ),
                Panel(
                    "Time to first token",
                    (("workspace:kaito_inference_time_to_first_token_seconds:p90_5m", f"{{{{{_W}}}}} p90"),),
                    "s",
                ),
                Panel(
                    "Length of requests",
                    _quantiles("kaito_inference_request_duration_seconds_bucket", _W, f"{{{{{_W}}}}}"),
                    "s",
                ),
                Panel(
                    "Sequences",
                    (
                        (f"sum by ({_W}) (kaito_inference_sequences_running)", f"{{{{{_W}}}}} running"),
                        (f"sum by ({_W}) (kaito_inference_sequences_waiting)", f"{{{{{_W}}}}} waiting"),
                    ),
                ),
                Panel(
                    "Requests",
                    (
                        (
                            f"sum by ({_W}, route, status) (rate(kaito_inference_requests_total[5m]))",
                            f"{{{{{_W}}}}} {{{{route}}}} {{{{status}}}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Refused and given up",
                    (
                        (f"sum by ({_W}) (rate(kaito_ratelimit_rejected_total[5m]))", f"{{{{{_W}}}}} refused"),
                        (f"sum by ({_W}) (rate(kaito_inference_cancelled_total[5m]))", f"{{{{{_W}}}}} given up"),
                    ),
                    "reqps",
                ),
                Panel("Ready", ((f"sum by ({_W}) (kaito_inference_ready)", f"{{{{{_W}}}}}"),), kind="stat"),
            ),
        ),
        Row(
            "Tuning",
            (
                Panel(
                    "Progress",
                    ((f"max by ({_W}) (kaito_tuning_step / (kaito_tuning_steps > 0))", f"{{{{{_W}}}}}"),),
                    "percentunit",
                ),
                Panel(
                    "Loss",
                    (
                        (f"max by ({_W}) (kaito_tuning_loss)", f"{{{{{_W}}}}}"),
                        (f"max by ({_W}) (kaito_tuning_eval_loss)", f"{{{{{_W}}}}} evaluation"),
                    ),
                ),
                Panel("Left", ((f"max by ({_W}) (kaito_tuning_eta_seconds)", f"{{{{{_W}}}}}"),), "s"),
            ),
        ),
    ),
)
DASHBOARDS = {"operator.json": OPERATOR, "models.json": MODELS}


def queries(dashboard: Dashboard) -> list[str]:
    return [query for row in dashboard.rows for panel in row.panels for query, _ in panel.queries]


def build(dashboard: Dashboard) -> dict[str, Any]:
    """As Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in dashboard.rows:
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row.title, "gridPos": place, "panels": []})
        top, left = top + 1, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                top, left = top + 8, 0
            place = {"x": left, "y": top, "w": panel.width, "h": 8}
            panels.append(_panel(panel, len(panels) + 1, place))
            left += panel.width
        top += 8
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["kaito"],
        "editable": True,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {"datasource": source, "expr": query, "legendFormat": legend or "__auto", "refId": chr(ord("A") + position)}
        for position, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "gridPos": place,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def render() -> dict[str, str]:
    """File names with their text."""
    return {name: json.dumps(build(dashboard), indent=2) + "\n" for name, dashboard in DASHBOARDS.items()}


def main() -> None:
    for name, text in render().items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
