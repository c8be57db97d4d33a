"""What the server process must never do."""

import os
import subprocess
import sys

from specs.paths import REPO

OPEN = """
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file("app.py", default_timeout=240).run()
for page in ("compare", "runs", "accuracy", "learn"):
    app.switch_page(f"ui/{page}/page.py").run()
    assert not app.exception, page
print(sorted({"torch", "transformers", "peft", "trl", "bitsandbytes"} & set(sys.modules)))
"""


def test_no_page_brings_torch_into_the_server(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        cwd=REPO,
        env={**os.environ, "LORAFIT_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
