"""What a card's driver tells is recorded, and a machine without one trains as well."""

from trainer.worker.loop import card


def test_a_cpu_has_no_card_to_ask():
    assert card.readings("cpu") == {}


def test_a_card_tells_what_its_driver_knows_and_nothing_else():
    found = card.readings("cuda:0")
    assert set(found) <= {"temperature_celsius", "power_watts"}
    assert all(0 < value < 2000 for value in found.values())
