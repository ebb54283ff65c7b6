"""The installed packages against databases of known faults, by pip-audit, whose report is kept in build/."""

from __future__ import annotations

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.harness.http_server import serving

pytest.importorskip("pip_audit")
NOTHING, FAULTS = 0, 1  # pip-audit's exit statuses


def audit(report: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], dict[str, list[str]]]:
    """How it ended, and of each package that was looked up the names of its known faults."""
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pip_audit", "--local", "--progress-spinner=off", "--timeout=10"]
    done = subprocess.run(
        [*command, "--format=json", f"--output={report}", *words],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    told = json.loads(report.read_text())["dependencies"] if report.is_file() else []
    return done, {one["name"]: [fault["id"] for fault in one["vulns"]] for one in told if "vulns" in one}


class Advisories(BaseHTTPRequestHandler):
    """A database in the format of osv.dev, which knows of one fault: in every version of PyYAML."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        fault: dict[str, Any] = {"id": "PLANTED-1", "summary": "planted", "affected": [], "aliases": []}
        body = json.dumps({"vulns": [fault]} if asked.lower() == "pyyaml" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_planted_fault_of_a_package_is_found(tmp_path: Path) -> None:
    with serving(Advisories) as address:
        done, found = audit(tmp_path / "report.json", "--vulnerability-service=osv", f"--osv-url={address}")
    assert done.returncode == FAULTS, done.stderr
    assert {name: faults for name, faults in found.items() if faults} == {"pyyaml": ["PLANTED-1"]}
    assert {"ray", "deepspeed", "torch", "transformers"} <= found.keys()


@pytest.mark.slow  # what is published tonight should fail nobody's tests tomorrow
def test_no_fault_of_an_installed_package_is_known(root: Path) -> None:
    done, found = audit(root / "build" / "pip-audit.json")
    if not found:  # each was passed over, or the service did not answer
        pytest.skip("no database of known faults can be reached from here")
    assert done.returncode == NOTHING, (
        f"{ ({name: faults for name, faults in found.items() if faults}) }\n{done.stderr}"
    )
