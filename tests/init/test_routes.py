from init.plan import plan
from init.routes import Step, marks, undo
from init.rules import RuleSet
from init.settings import InitConfig


def test_marks_of_rules_in_place() -> None:
    assert marks(RuleSet()) == set()
    assert marks(plan(InitConfig(inbound_ports=("*",), tproxy=True, mark=77)).v4) == {77}


def test_steps_say_what_is_wrong() -> None:
    assert Step("rule", True, 4, 1337, 133).text() == "IPv4 rule fwmark 0x539 lookup 133 is missing"
    assert Step("route", False, 6, table=133).text().endswith("table 133 is not part of the plan")
    assert Step("address", True).text() == "address ::6 on lo is missing"


def test_nothing_to_take_back() -> None:
    assert undo([]) == []
