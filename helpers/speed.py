"""What makes training fast without changing what is learned. Chapter 08 teaches all of it."""

import json
from pathlib import Path
from time import perf_counter

import torch
from transformers.models.bert.modeling_bert import BertAttention, BertLayer

from helpers.sources import SourceError, find_model


def check_is_bert(model_name):
    """Raise SourceError unless the model is a BERT, whose layers chapter 08 knows."""
    config = json.loads(Path(find_model(model_name), "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "bert":
        raise SourceError(
            f"model_name: chapter 8 speeds up models of type 'bert', but {model_name!r} is of type"
            f" {config.get('model_type')!r}; chapters 1 to 6 can fine-tune it"
        )


def multiply_rate(m, k, n, device, dtype=torch.float32, seconds=0.3):
    """Return FLOP/s of multiplying an m × k by a k × n matrix: `2 · m · k · n` each time.

    Defined in chapter 08.
    """
    a = torch.randn(m, k, device=device, dtype=dtype)
    b = torch.randn(k, n, device=device, dtype=dtype)
    product, rates = a @ b, []
    for _ in range(3):
        count, start = 0, perf_counter()
        while perf_counter() - start < seconds / 3:
            torch.mm(a, b, out=product)
            count += 1
            if device.type != "cpu":
                torch.accelerator.synchronize()  # a GPU works on while Python goes on
        rates.append(2 * m * k * n * count / (perf_counter() - start))
    return max(rates)


def training_flops(config, length, frozen_layers=None):
    """Return the FLOPs that the loss of one text and its gradients need, padding not counted.

    config: of a BERT that classifies; length: tokens of the text; frozen_layers: how many of the
    lowest layers are frozen, with the embeddings; at least two stay trained; None: all are trained.
    Multiplications of matrices alone. Of the last layer's output only the first token counts, for
    the head reads no other. The backward pass takes twice the forward pass of what is trained,
    without the gradient of what comes into the lowest trained layer. Defined in chapter 08.
    """
    d, layers = config.hidden_size, config.num_hidden_layers
    a_query = 4 * d * d + 4 * length * d + 4 * d * config.intermediate_size
    a_key = 4 * d * d
    a_layer = length * (a_query + a_key)
    head = 2 * d * d + 2 * d * config.num_labels
    forward = (layers - 1) * a_layer + a_query + length * a_key + head
    if frozen_layers is None:
        return 3 * forward
    return 3 * forward - 2 * frozen_layers * a_layer - 6 * length * d * d


def freeze_lower_layers(model, num_layers):
    """Leave the embeddings and the first layers as they were pretrained: no gradient, no update.

    Defined in chapter 08.
    """
    for module in [model.base_model.embeddings, *model.base_model.encoder.layer[:num_layers]]:
        for parameter in module.parameters():
            parameter.requires_grad = False


class FirstTokenLayer(BertLayer):
    """The last layer of a BERT whose head reads the first token alone.

    Keys and values still come from all tokens; the query, and all that follows it, is
    computed for the first one. Returns shape (batch, 1, hidden). Defined in chapter 08.
    """

    def __init__(self, config):
        super().__init__(config)
        self.attention = BertAttention(config, is_cross_attention=True)

    def forward(self, hidden_states, attention_mask=None, *args, **kwargs):
        if attention_mask is not None:
            attention_mask = attention_mask[:, :, :1]
        attended, _ = self.attention(
            hidden_states[:, :1],
            encoder_hidden_states=hidden_states,
            encoder_attention_mask=attention_mask,
        )
        return self.feed_forward_chunk(attended)


def read_first_token_only(model):
    """Put a `FirstTokenLayer` with the same weights in the place of the last layer of a BERT.

    The logits stay what they were, and so do the names of the weights: what you save is an
    ordinary BERT. Defined in chapter 08.
    """
    layers = model.base_model.encoder.layer
    last = FirstTokenLayer(model.config).train(model.training)
    last.load_state_dict(layers[-1].state_dict())
    layers[-1] = last.to(model.device)


class TokenBatchSampler:
    """Yield batches of texts of like length, each with at most `max_tokens` tokens with padding.

    lengths: the number of tokens of each row
    generator: a torch.Generator; the same state gives the same batches

    Rows of equal length meet in another order each epoch, and the batches come in random order.
    Defined in chapter 08.
    """

    def __init__(self, lengths, max_tokens, generator):
        self.lengths = torch.as_tensor(lengths)
        self.max_tokens = max_tokens
        self.generator = generator

    def __iter__(self):
        order = torch.randperm(len(self.lengths), generator=self.generator)
        order = order[self.lengths[order].argsort(descending=True, stable=True)]
        batches = []
        while len(order) > 0:
            size = max(1, self.max_tokens // int(self.lengths[order[0]]))
            batches.append(order[:size].tolist())
            order = order[size:]
        for i in torch.randperm(len(batches), generator=self.generator):
            yield batches[i]

    def __len__(self):
        lengths = self.lengths.sort(descending=True).values
        start = count = 0
        while start < len(lengths):
            start += max(1, self.max_tokens // int(lengths[start]))
            count += 1
        return count


class FastDropout(torch.nn.Module):
    """Dropout that makes four decisions with each random number of 64 bits.

    p: the share of values that become 0, to the next of 65,536 steps. The others are scaled up
    by 1 / (1 - p), as `torch.nn.Dropout` does. For processors. Defined in chapter 08.
    """

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        numbers = torch.empty(x.numel() // 4 + 1, dtype=torch.int64).random_(-(2**63), None)
        numbers = numbers.view(torch.int16)[: x.numel()].view(x.shape)
        keep = numbers >= round(self.p * 2**16) - 2**15
        return torch.where(keep, x / (1 - self.p), 0.0)


def use_fast_dropout(model):
    """Put a `FastDropout` in the place of every `torch.nn.Dropout` that does something.

    Defined in chapter 08.
    """
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if isinstance(module, torch.nn.Dropout) and module.p > 0:
                setattr(parent, name, FastDropout(module.p).train(module.training))
