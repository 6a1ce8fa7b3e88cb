import subprocess
import sys


def loaded(code: str) -> str:
    """What a fresh interpreter prints: whether the messages in pure Python were really loaded."""
    question = "type(sys.modules['google.protobuf.internal.python_message']) is types.ModuleType"
    code = f"import sys, types; {code}; print({question})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_pure_python_messages_are_not_loaded_for_our_own() -> None:
    assert loaded("from agent.protos import xds_pb2; xds_pb2.ResponseHead().SerializeToString()") == "False"


def test_but_for_whoever_uses_them() -> None:
    use = "from google.protobuf.internal import python_message as m; m.GeneratedProtocolMessageType"
    assert loaded(f"from agent.protos import xds_pb2; {use}") == "True"


def test_nothing_is_replaced_that_is_there_already() -> None:
    assert loaded("from google.protobuf.internal import python_message; import agent.protos") == "True"
