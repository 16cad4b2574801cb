"""What chapter 6 cannot train live: the accuracy of each method for every number of labels, and loss curves.

Each point is trained in a process of its own on one core, and kept at once: a run that was broken
off goes on where it was. Results of the default data go to benchmarks/results/budget.json, those
of others to `budget.json` in their run folder.
"""

import argparse
from dataclasses import asdict, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from time import process_time

from benchmarks.bench import machine
from benchmarks.child import run_child
from benchmarks.roads import tokenized_rows
from suite.errors import UserError
from suite.runs import peak_memory_mib, read_metrics, run_folder, write_json
from suite.settings import Settings
from suite.start import check_values

RESULTS = Path(__file__).with_name("results") / "budget.json"
ALL = {"num_train": 6162, "num_validation": 1088, "num_test": 1280}
DEFAULT = Settings(**ALL, run_dir="runs/budget")
# What has to be equal for results to be those of a chapter's data and model.
SAME = ("model_name", "dataset_name", "text_column", "label_column", "max_length", "long_texts")
DRAWS = {50: 3, 100: 3, 300: 3, 1000: 3, 3000: 1}  # of training rows; of all rows there is one
METHODS = ("TF-IDF", "frozen", "LoRA", "full")
LEAST_STEPS = 100  # few rows need more passes than three
LORA_RATE = 10  # times the learning rate of the others: its matrices start at zero
# Learning rate and epochs, each from 300 rows.
CURVES = {"healthy": (1e-4, 4), "underfit": (3e-6, 4), "overfit": (3e-4, 10), "diverged": (0.03, 4)}
# Learning rates, three seeds each, under the conditions of the first curve.
RATES = (1e-5, 1e-4, 1e-3)
ONE_CORE = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}


def same(settings):
    """Return what decides whether results fit, as a dictionary."""
    return {name: getattr(settings, name) for name in SAME}


def measured(settings):
    """Return the results for the data and the model of these settings, {} if there are none."""
    for file in (run_folder(settings) / "budget.json", RESULTS):
        results = read_metrics(file)
        if results.get("of") == same(settings):
            return results
    return {}


def points(settings):
    """Return what there is to measure, as (method, rows, draw), the cheapest first."""
    sizes = [size for size in DRAWS if size < settings.num_train] + [settings.num_train]
    runs = [(m, n, draw) for n in sizes for m in METHODS for draw in range(DRAWS.get(n, 1))]
    thousand = min(1000, settings.num_train)
    runs += [("full, mean of tokens", thousand, draw) for draw in range(DRAWS[1000])]
    return sorted(runs, key=lambda run: run[1])


def measure_point(method, num_rows, draw, settings):
    """Learn from a draw of rows; return accuracy on the test rows, processor seconds, peak memory."""
    settings = Settings(**settings)
    dataset = tokenized_rows(settings)
    settings = replace(settings, seed=draw)
    if num_rows < settings.num_train:
        from helpers.data import stratify

        dataset["train"] = stratify(dataset["train"], draw).select(range(num_rows))
    learn = {"TF-IDF": learn_words, "frozen": learn_frozen}.get(method, learn_all)
    start = process_time()
    answer = learn(dataset, settings, method)
    seconds = process_time() - start
    accuracy = answer()
    return {"accuracy": accuracy, "seconds": seconds, "peak_memory_mib": peak_memory_mib()}


def learn_words(dataset, settings, method):
    """Fit TF-IDF; return a function that gives its accuracy."""
    from helpers.evaluation import tfidf_baseline

    model = tfidf_baseline(dataset["train"]["text"][:], dataset["train"]["label"][:])
    return lambda: model.score(dataset["test"]["text"][:], dataset["test"]["label"][:])


def learn_frozen(dataset, settings, method):
    """Fit a logistic regression on the mean of the tokens' vectors; return as `learn_words`."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer

    from helpers.batches import make_dataloader, to_model_inputs
    from helpers.choice import embed
    from helpers.data import longest_first
    from suite.resolve import find_model

    folder = find_model(settings.model_name)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def vectors(rows):
        rows = longest_first(to_model_inputs(rows))
        dataloader = make_dataloader(rows, tokenizer, 32)
        return embed(model, dataloader, model.device)[0], rows["labels"][:]

    classifier = LogisticRegression(max_iter=1000).fit(*vectors(dataset["train"]))
    return lambda: classifier.score(*vectors(dataset["test"]))


def learn_all(dataset, settings, method):
    """Fine-tune all weights, or those of LoRA; return as `learn_words`."""
    from peft import LoraConfig, TaskType, get_peft_model

    from helpers.training import load_model

    class_label = dataset["train"].features["label"]
    model = load_model(settings.model_name, class_label, settings.attention_dropout, settings.seed)
    if method == "LoRA":
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules="all-linear"
        )
        config.exclude_modules = ["pre_classifier"]  # a part of the head of DistilBERT
        model = get_peft_model(model, config)
        settings = replace(settings, learning_rate=LORA_RATE * settings.learning_rate)
    if method == "full, mean of tokens":
        model = mean_of_tokens(model)
    steps = -(-len(dataset["train"]) // settings.batch_size)
    epochs = max(settings.num_epochs, -(-LEAST_STEPS // steps))
    model, _ = train(model, dataset, replace(settings, num_epochs=epochs))
    return lambda: score(model, dataset, settings)


def train(model, dataset, settings, num_validation=32):
    """Fine-tune a model; return it and its losses, a pair for each epoch."""
    from tqdm.auto import tqdm
    from transformers import AutoTokenizer

    from helpers.batches import to_model_inputs
    from helpers.choice import fine_tune
    from helpers.training import pick_device
    from suite.resolve import find_model

    rows = to_model_inputs(dataset)
    num_validation = min(num_validation, len(rows["validation"]))
    rows["validation"] = rows["validation"].select(range(num_validation))
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    device = pick_device(settings.device)
    with tqdm(disable=True) as bar:
        return model, fine_tune(model.to(device), rows, tokenizer, settings, device, bar)


def score(model, dataset, settings):
    """Return the accuracy of a model on the test rows."""
    from transformers import AutoTokenizer

    from helpers.batches import make_dataloader, to_model_inputs
    from helpers.data import longest_first
    from helpers.evaluation import evaluate_model
    from helpers.training import pick_device
    from suite.resolve import find_model

    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    dataloader = make_dataloader(longest_first(to_model_inputs(dataset)["test"]), tokenizer, 32)
    return evaluate_model(model, dataloader, pick_device(settings.device))[1]


def mean_of_tokens(model):
    """Return a classifier of the same encoder whose head reads the mean of the tokens."""
    import torch
    from transformers.modeling_outputs import SequenceClassifierOutput

    class MeanOfTokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = model.base_model
            self.head = torch.nn.Linear(model.config.hidden_size, model.num_labels)

        def forward(self, labels, **inputs):
            hidden = self.encoder(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            logits = self.head((hidden * mask).sum(dim=1) / mask.sum(dim=1))
            loss = torch.nn.functional.cross_entropy(logits, labels)
            return SequenceClassifierOutput(loss=loss, logits=logits)

    return MeanOfTokens()


def measure_curve(learning_rate, num_epochs, seed, settings):
    """Train on 300 rows; return the losses, [training, validation] of each epoch, and what led to them."""
    from helpers.training import load_model

    changed = {"learning_rate": learning_rate, "num_epochs": num_epochs}
    settings = replace(Settings(**settings), **changed)
    dataset = tokenized_rows(settings)
    settings = replace(settings, seed=seed)
    dataset["train"] = dataset["train"].select(range(min(300, len(dataset["train"]))))
    class_label = dataset["train"].features["label"]
    model = load_model(settings.model_name, class_label, 0.0, settings.seed)
    _, losses = train(model, dataset, settings, num_validation=300)
    return {**changed, "rows": len(dataset["train"]), "losses": losses}


def measure(settings, file, jobs):
    """Measure what `file` lacks, `jobs` points at a time, and write each into it."""
    tokenized_rows(settings)
    results = {"note": "measured by `make budget`", "machine": f"one core of {machine('cpu')}"}
    kept = read_metrics(file)
    if kept.get("of") == same(settings):
        results |= kept
    results |= {"of": same(settings), "test_rows": settings.num_test}
    curves = {name: (*how, settings.seed) for name, how in CURVES.items()}
    curves |= {f"{r:.0e}, seed {seed}": (r, 4, seed) for r in RATES for seed in range(3)}
    todo = [("curves", name) for name in curves]
    todo += [("points", *map(str, run)) for run in points(settings)]

    def child(place):
        if place[0] == "curves":
            name, arguments = "measure_curve", curves[place[1]]
        else:
            name, arguments = "measure_point", (place[1], int(place[2]), int(place[3]))
        name, arguments = f"benchmarks.budget:{name}", (*arguments, asdict(settings))
        return place, run_child(name, *arguments, environment=ONE_CORE)

    with ThreadPool(jobs) as pool:
        todo = [place for place in todo if place[-1] not in _part(results, place)]
        for place, figures in pool.imap_unordered(child, todo):
            print(*place, figures, flush=True)
            _part(results, place)[place[-1]] = figures
            write_json(file, results)


def _part(results, place):
    """The dictionary of the results that holds the last key of a place, made if it is not there."""
    for key in place[:-1]:
        results = results.setdefault(key, {})
    return results


def main():
    """Command line."""
    from suite.runner import read_pairs  # heavy, and the chapter imports this module

    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument(
        "-p", action="append", default=[], metavar="NAME=VALUE", help="a parameter, for your data"
    )
    parser.add_argument("--jobs", type=int, default=2, help="points at a time; default 2")
    options = parser.parse_args()
    try:
        settings = check_values(read_pairs(options.p)) if options.p else DEFAULT
    except UserError as error:
        parser.error(str(error))
    file = run_folder(settings) / "budget.json" if options.p else RESULTS
    measure(settings, file, options.jobs)


if __name__ == "__main__":
    main()
