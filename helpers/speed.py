"""What makes training fast. Chapter 08 teaches all of it but `check_is_bert`."""

import json
from pathlib import Path
from time import perf_counter

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
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


def training_flops(config, length):
    """Return the FLOPs that the loss of one text and its gradients need, padding not counted.

    config: of a BERT that classifies; length: tokens of the text. Multiplications of matrices
    alone. Of the last layer's output only the first token counts, for the head reads no other.
    The backward pass takes twice the forward pass. Defined in chapter 08.
    """
    d, layers = config.hidden_size, config.num_hidden_layers
    a_query = 4 * d * d + 4 * length * d + 4 * d * config.intermediate_size
    a_key = 4 * d * d
    a_layer = length * (a_query + a_key)
    head = 2 * d * d + 2 * d * config.num_labels
    return 3 * ((layers - 1) * a_layer + a_query + length * a_key + head)


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


class UsedTokens(torch.nn.Module):
    """The rows of a word embedding that belong to the tokens of some texts.

    whole: the embedding to take them from, a torch.nn.Embedding
    texts: the token ids of each text

    It is called with the same token ids as `whole`. Raises IndexError (a GPU: an assertion) if one
    of them is in none of the texts and does not stand for padding. Defined in chapter 08.
    """

    def __init__(self, whole, texts):
        super().__init__()
        padding = torch.tensor([whole.padding_idx])
        tokens = torch.cat([*texts, padding]).unique().to(whole.weight.device)
        row = torch.full([whole.num_embeddings], -1, device=tokens.device)
        row[tokens] = torch.arange(len(tokens), device=tokens.device)
        self.register_buffer("tokens", tokens)
        self.register_buffer("row", row)
        self.padding_row = int(row[whole.padding_idx])
        self.weight = torch.nn.Parameter(whole.weight.detach()[tokens])

    def forward(self, input_ids):
        return torch.nn.functional.embedding(self.row[input_ids], self.weight, self.padding_row)


def train_used_tokens_only(model, texts):
    """Put `UsedTokens` in the place of a model's word embedding, and return the latter.

    Give it to `put_all_tokens_back` before you evaluate or save. Defined in chapter 08.
    """
    whole = model.get_input_embeddings()
    model.set_input_embeddings(UsedTokens(whole, texts))
    return whole


def put_all_tokens_back(model, whole):
    """Copy what `UsedTokens` learned into the whole embedding, and put that in its place again.

    Defined in chapter 08.
    """
    used = model.get_input_embeddings()
    with torch.no_grad():
        whole.weight[used.tokens] = used.weight
    model.set_input_embeddings(whole)


def switch_dropout_off(model):
    """Let a model drop nothing, in training too. Defined in chapter 08."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def has_fast_bf16(device):
    """Return whether this processor or GPU has instructions to multiply bf16 numbers.

    Defined in chapter 08.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def attend_in_float32(module, query, key, value, attention_mask, **dropout_and_scaling):
    """Compute attention as `sdpa` does, but in float32 even within autocast.

    Defined in chapter 08.
    """
    heads = query.float(), key.float(), value.float()
    with torch.autocast(query.device.type, enabled=False):
        return sdpa_attention_forward(module, *heads, attention_mask, **dropout_and_scaling)


def use_float32_attention(model):
    """Let a model attend with `attend_in_float32`. Defined in chapter 08."""
    AttentionInterface.register("sdpa_float32", attend_in_float32)
    AttentionMaskInterface.register("sdpa_float32", sdpa_mask)
    model.set_attn_implementation("sdpa_float32")
