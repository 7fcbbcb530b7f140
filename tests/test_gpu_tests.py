"""The tests that need a GPU run on a machine that has one, whatever else it lacks."""

import subprocess
import sys

import pytest

ABSENT = ("faiss", "skimage", "sklearn", "pyarrow", "pandas", "pymilvus", "psycopg", "onnx", "starlette", "selenium")


@pytest.mark.slow
def test_they_are_found_without_optional_packages():
    code = (
        f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\nimport pytest\n"
        "sys.exit(pytest.main(['-q', '-m', 'gpu', '--collect-only', '-p', 'no:cacheprovider', 'tests']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "tests/kernels/test_triton_device.py" in done.stdout
    assert "tests/extract/test_extract.py" in done.stdout
