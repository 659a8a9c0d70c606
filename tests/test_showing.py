"""How optimizers look where they are printed, and in notebooks."""

import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from instep import SGD, Adam, Momentum, chain, partition
from instep.schedules import Linear
from instep.transforms import accumulate, clip_by_value, skip_nonfinite, total_variation


def step(optimizer, count):
    params = {"a": np.ones(2), "b": np.ones(3)}
    for _ in range(count):
        optimizer.update(params, {"a": np.ones(2), "b": np.ones(3)})
    return optimizer


class Text(HTMLParser):
    """What is read of a page, cell by cell, and the elements that are open."""

    def __init__(self, page):
        super().__init__()
        self.cells, self.open, self.kinds = [], [], set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.kinds.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells.append(data)


def test_an_optimizer_that_took_steps_shows_their_number():
    fresh = "SGD(lr=0.5)"
    assert repr(SGD(lr=0.5)) == fresh
    optimizer = step(SGD(lr=0.5), 3)
    assert repr(optimizer) == "<SGD(lr=0.5) at t=3>"
    optimizer.reset()
    assert repr(optimizer) == fresh


@pytest.mark.parametrize(
    ("optimizer", "source"),
    [
        (
            chain(clip_by_value(1.0), SGD(lr=0.5), threads=1),
            "chain(clip_by_value(limit=1.0), SGD(lr=0.5), threads=1)",
        ),
        (
            partition({"a": SGD(lr=0.5), "*": SGD(lr=0.25)}, seed=2),
            "partition({'a': SGD(lr=0.5), '*': SGD(lr=0.25)}, seed=2)",
        ),
    ],
)
def test_so_do_chains_and_partitions_once(optimizer, source):
    assert repr(optimizer) == source
    assert repr(step(optimizer, 2)) == f"<{source} at t=2>"


def test_what_was_turned_away_is_not_counted():
    optimizer, w = chain(skip_nonfinite(), SGD(lr=0.5)), np.zeros(1)
    for gradient in (1.0, np.nan, 1.0):
        w = optimizer.update(w, np.array([gradient]))
    assert repr(optimizer) == "<chain(skip_nonfinite(), SGD(lr=0.5)) at t=2>"


def test_an_explanation_has_the_source_alone():
    optimizer = step(SGD(lr=0.5), 3)
    params = {"a": np.ones(2), "b": np.ones(3)}
    assert optimizer.explain(params).optimizer == "SGD(lr=0.5)"


def test_a_notebook_shows_hyperparameters_and_settings_that_are_not_as_by_default():
    optimizer = Momentum(lr=Linear(1.0, 0.5, steps=9), frozen=("<b>",))
    for _ in range(2):
        optimizer.update({"a": np.ones(2), "<b>": np.ones(2)}, {"a": np.ones(2), "<b>": None})
    page = Text(optimizer._repr_html_())
    assert page.cells == [
        "Momentum, t = 2",
        *("lr", "Linear(start=1.0, end=0.5, steps=9)", "momentum", "0.9", "dampening", "0.0"),
        *("lr_in_velocity", "True", "frozen", "('<b>',)"),
    ]
    assert page.open == []
    assert "b" not in page.kinds  # what the user wrote is text
    assert unescape(optimizer._repr_html_()).count("<b>") == 1


def test_a_notebook_shows_the_rules_of_chains_and_partitions_one_below_another():
    optimizer = partition({"a": chain(clip_by_value(1.0), SGD(lr=0.5)), "*": SGD(lr=1.0)}, seed=1)
    assert Text(optimizer._repr_html_()).cells == [
        "Partition, t = 0",
        *("'a': clip_by_value", "limit", "1.0"),
        *("'a': SGD", "lr", "0.5"),
        *("'*': SGD", "lr", "1.0"),
        *("Partition", "seed", "1"),
    ]
    assert Text(clip_by_value(1.0)._repr_html_()).cells == ["clip_by_value", "limit", "1.0"]


def test_the_table_has_the_colors_of_the_page_in_light_and_in_dark():
    assert set(re.findall(r"color: ?([^;\"]*)", Adam()._repr_html_())) == {"inherit"}
    assert "background" not in Adam()._repr_html_()


def test_whole_numbers_are_shown_as_such():
    assert repr(accumulate(4)) == "accumulate(k=4)"
    assert "iterations=20," in repr(total_variation(0.1))
