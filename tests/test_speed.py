"""What chapter 10 changes for speed: the same results, the counts that it claims."""

import copy
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from helpers import speed


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = BertConfig(vocab_size=99, intermediate_size=64, num_labels=3, **sizes)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return BertForSequenceClassification(config)


def batch(texts=4, tokens=11, padding=5):
    mask = torch.ones(texts, tokens, dtype=torch.long)
    mask[1, tokens - padding :] = 0
    input_ids = torch.randint(0, 99, (texts, tokens), generator=torch.Generator().manual_seed(1))
    return {"input_ids": input_ids, "attention_mask": mask, "labels": torch.arange(texts) % 3}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("training", [False, True])
def test_reading_the_first_token_only_changes_nothing(model, padding, training, tmp_path):
    """Neither logits nor gradients, and what is saved afterwards is an ordinary BERT."""
    model.train(training)
    names = list(model.state_dict())
    whole = copy.deepcopy(model)
    expected = whole(**batch(padding=padding))
    expected.loss.backward()
    speed.read_first_token_only(model)
    assert list(model.state_dict()) == names
    assert model.bert.encoder.layer[-1].training == training
    outputs = model(**batch(padding=padding))
    outputs.loss.backward()
    model.save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    for found in outputs, loaded(**batch(padding=padding)):
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-6)
    gradients, wanted = ({n: p.grad for n, p in m.named_parameters()} for m in (model, whole))
    torch.testing.assert_close(gradients, wanted, rtol=0, atol=1e-6)


def test_the_flops_are_those_that_torch_counts(model):
    model.set_attn_implementation("eager")  # torch does not count the fast path of a CPU
    speed.read_first_token_only(model)
    with FlopCounterMode(display=False) as counter:
        model(**batch(texts=2, tokens=13, padding=0)).loss.backward()
    assert counter.get_total_flops() == 2 * speed.training_flops(model.config, 13)


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc/cpuinfo")
def test_bf16_is_used_where_the_processor_has_instructions_for_it(monkeypatch):
    """Linux lists them; where there are none, torch would imitate them, slowly."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert speed.has_fast_bf16(torch.device("cpu")) == bool({"avx512_bf16", "amx_bf16"} & flags)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert not speed.has_fast_bf16(torch.device("cpu"))


def test_what_stays_float32_within_autocast(model, monkeypatch):
    """Weights, gradients and loss; attention where it is asked for."""
    attend = torch.nn.functional.scaled_dot_product_attention
    kinds = []

    def watch(query, *args, **kwargs):
        kinds.append(query.dtype)
        return attend(query, *args, **kwargs)

    def outputs(bf16):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(**batch())

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    expected, rounded = outputs(False), outputs(True)
    rounded.loss.backward()
    assert rounded.loss.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    assert rounded.loss.item() == pytest.approx(expected.loss.item(), rel=0.01)
    assert rounded.loss.item() != expected.loss.item()
    speed.use_float32_attention(model)
    assert torch.equal(outputs(False).logits, expected.logits)
    torch.testing.assert_close(outputs(True).logits.float(), expected.logits, rtol=0, atol=0.02)
    layers = model.config.num_hidden_layers
    assert kinds[layers : 2 * layers] == [torch.bfloat16] * layers
    assert kinds[2 * layers :] == [torch.float32] * 2 * layers


def test_without_dropout_training_computes_what_evaluation_does(model):
    expected = model.eval()(**batch()).logits
    for layer in (layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout)):
        layer.p = 0.5
    assert not torch.equal(model.train()(**batch()).logits, expected)
    speed.switch_dropout_off(model)
    assert torch.equal(model(**batch()).logits, expected)


def train_some_steps(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        model(**batch()).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def test_training_the_used_tokens_only_gives_the_same_weights(model, tmp_path):
    other = copy.deepcopy(model)
    train_some_steps(model)
    whole = speed.train_used_tokens_only(other, list(batch()["input_ids"]))
    used = {0, *batch()["input_ids"].flatten().tolist()}  # 0 is padding
    assert len(other.get_input_embeddings().weight) == len(used) < len(whole.weight)
    other(torch.tensor([[*used]]))
    with pytest.raises(IndexError):
        other(torch.tensor([[min(set(range(99)) - used)]]))
    train_some_steps(other)
    speed.put_all_tokens_back(other, whole)
    assert other.get_input_embeddings() is whole
    weights = dict(other.named_parameters())
    for name, expected in model.named_parameters():
        if "key.bias" not in name:  # its gradient is 0 but for rounding, which AdamW blows up
            torch.testing.assert_close(weights[name], expected, rtol=0, atol=1e-6, msg=name)
    other.save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), other.state_dict(), rtol=0, atol=0)


LENGTHS = torch.randint(3, 60, (500,), generator=torch.Generator().manual_seed(0)).tolist()


def sampler(rows, max_tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return speed.TokenBatchSampler(LENGTHS[:rows], max_tokens, generator)


@pytest.mark.parametrize(("rows", "max_tokens"), [(500, 256), (7, 60), (1, 60), (50, 10)])
def test_token_batches_hold_every_row_once_and_no_more_tokens_than_asked(rows, max_tokens):
    batches = list(sampler(rows, max_tokens))
    assert len(sampler(rows, max_tokens)) == len(batches)
    assert sorted(sum(batches, [])) == list(range(rows))
    for chosen in batches:
        tokens = len(chosen) * max(LENGTHS[row] for row in chosen)
        assert tokens <= max_tokens or len(chosen) == 1


def test_token_batches_differ_between_epochs_and_come_again_with_the_seed():
    one, again, other = sampler(300, 256), sampler(300, 256), sampler(300, 256, seed=1)
    first, second = list(one), list(one)
    assert first != second
    assert {frozenset(chosen) for chosen in first} != {frozenset(chosen) for chosen in second}
    assert [list(again), list(again)] == [first, second]
    assert list(other) != first
