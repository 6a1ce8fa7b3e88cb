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


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


STAND_IN = (
    "import sys; from agent.deferred import stand_in; stand_in('textwrap', 'no_such_module'); "
    "first = sys.modules['textwrap']; "
)


def test_what_is_seldom_used_is_imported_but_not_loaded() -> None:
    assert (
        run(STAND_IN + "import traceback; print(first is sys.modules['textwrap'], 'dedent' in vars(first))")
        == "True False"
    )


def test_it_is_loaded_for_whoever_uses_it() -> None:
    use = "import textwrap as early; print(early.dedent('  x'), early is first, sys.modules['textwrap'] is first); "
    later = "import textwrap as late; print(late.dedent is early.dedent, type(late).__name__)"
    assert run(STAND_IN + use + later).splitlines() == ["x True False", "True module"]


def test_its_names_can_be_imported() -> None:
    assert run(STAND_IN + "from textwrap import dedent; print(dedent('  y'))") == "y"


def test_what_is_missing_is_missed_when_it_is_used() -> None:
    failing = "\ntry:\n    import no_such_module\n    no_such_module.x\nexcept ModuleNotFoundError as e:\n    print(e)"
    assert run(STAND_IN + failing) == "No module named 'no_such_module'"


def test_a_module_that_is_there_stays() -> None:
    assert run("import sys, textwrap; " + STAND_IN + "print(first is textwrap, type(first).__name__)") == "True module"


def test_threads_that_need_it_at_once_all_get_it() -> None:
    threads = (
        "\nimport threading\nfound = []\n"
        "def work():\n    found.append(first.dedent('  z'))\n"
        "all = [threading.Thread(target=work) for _ in range(20)]\n"
        "[t.start() for t in all]; [t.join() for t in all]; print(len(found), set(found))"
    )
    assert run("import sys; sys.setswitchinterval(1e-6); " + STAND_IN + threads) == "20 {'z'}"
