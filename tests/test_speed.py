"""Do the benchmarks of speed count and compare what they say?"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import speed
from benchmarks.rivals import RIVALS

ROOT = Path(__file__).parent.parent


def test_operations_of_an_lstm_and_its_gradients_are_counted():
    lstm = nn.LSTM(12, 8, batch_first=True)
    x = torch.randn(3, 5, 12, requires_grad=True)
    forward = 2 * (3 * 5) * 4 * 8 * (12 + 8) / 1e9
    assert speed.operations(lambda: lstm(x)) == pytest.approx(forward)
    assert speed.operations(lambda: lstm(x)[0].sum().backward()) == pytest.approx(3 * forward)


def test_operations_of_attention_and_its_gradients_are_counted():
    query, key, value = (torch.randn(2, 4, 6, 8, requires_grad=True) for _ in range(3))
    forward = 2 * 2 * (2 * 4) * 6 * 6 * 8 / 1e9  # of two products

    def attention() -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value)

    assert speed.operations(attention) == pytest.approx(forward)
    assert speed.operations(lambda: attention().sum().backward()) == pytest.approx(3.5 * forward)


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_draw_and_learn_from_every_weight(name):
    torch.manual_seed(0)
    rival, tokens = RIVALS[name](10), torch.tensor([[2, 4, 5], [2, 6, 0]])
    with torch.no_grad():
        assert rival(tokens).shape == (2, 3, 64, 64)
    rival.loss(tokens, torch.rand(2, 3, 64, 64)).backward()
    assert all(p.grad is not None for p in rival.parameters())


def test_the_table_of_speed_is_that_of_its_record():
    record = ROOT / "results_short" / "speed.json"
    assert speed.table(json.loads(record.read_text())) in (ROOT / "README.md").read_text()
