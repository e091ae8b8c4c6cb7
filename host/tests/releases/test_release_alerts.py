"""The alert rules speak of metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from adytum.service.metrics import Metrics

ALERTS = Path(__file__).resolve().parents[3] / "deploy/prometheus/alerts.yml"


def test_every_metric_of_the_alert_rules_is_exposed() -> None:
    metrics = Metrics()
    one = metrics.of("enclave-1")
    one.gate(True)
    one.up(True)
    exposed = set(re.findall(r"^(adytum_\w+)", metrics.render().decode(), re.MULTILINE))
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert any(rule["alert"] == "AdytumCanaryNotOk" for rule in rules)
    for rule in rules:
        named = set(re.findall(r"adytum_\w+", rule["expr"]))
        assert named
        assert named <= exposed, rule["alert"]
