"""The generated code is what the checked-in source gives."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["link_pb2.py", "link_pb2.pyi"])
def test_the_generated_code_is_current(tmp_path: Path, name: str) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is needed to generate the code")
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    if not plugin.exists():
        pytest.skip("mypy-protobuf is needed to generate the stubs")
    arguments = ["-I", f"cluster/transport={ROOT / 'protos'}", f"--plugin={plugin}", f"--python_out={tmp_path}"]
    source = str(ROOT / "protos" / "link.proto")
    assert protoc.main(["protoc", *arguments, f"--mypy_out={tmp_path}", source]) == 0
    generated = (tmp_path / "cluster" / "transport" / name).read_text()
    assert (ROOT / "cluster" / "transport" / name).read_text() == generated, "run the command in protos/link.proto"
