"""From a source to tokenized rows. Chapter 01 teaches every function but `prepare_data`."""

from datasets import ClassLabel, DatasetDict, load_dataset, load_from_disk
from transformers import AutoTokenizer

from helpers.parameters import HELD_OUT, check_enough_rows
from helpers.runs import DATA_PARAMETERS, is_made_by, made_by, new_folder, run_folder
from helpers.sources import SourceError, find_dataset, find_model


def clean(dataset, text_column, label_column):
    """Keep text and label, named `text` and `label`; drop rows without them and repeated texts.

    Test rows come first: a text in two splits stays in the one that is trained on least.
    Defined in chapter 01.
    """
    seen = set()

    def is_new(text, label):
        text = str(text or "").strip()
        if text == "" or label is None or text in seen:
            return False
        seen.add(text)
        return True

    names = {text_column: "text", label_column: "label"}
    dataset = dataset.select_columns(list(names)).rename_columns(names)
    cleaned = {}
    for name in ("test", "validation", "train"):
        if name in dataset:
            # A cached result would leave `seen` empty for the next split.
            cleaned[name] = dataset[name].filter(
                is_new, input_columns=["text", "label"], load_from_cache_file=False
            )
    return DatasetDict(cleaned)


def encode_labels(dataset, label_names=None):
    """Turn the column `label` into a `ClassLabel`: class numbers 0, 1, ... that know their names.

    Without `label_names` the names are the values themselves, in their order.
    Defined in chapter 01.
    """
    if isinstance(dataset["train"].features["label"], ClassLabel):
        return dataset
    values = sorted(set().union(*(rows["label"] for rows in dataset.values())))
    names = list(label_names or map(str, values))
    encoded = dataset.map(lambda label: {"label": values.index(label)}, input_columns="label")
    return encoded.cast_column("label", ClassLabel(names=names))


def split(dataset, held_out):
    """Make sure of three splits: put the share `held_out` aside for each of test and validation.

    Splits that the data set brings stay as they are. The seed is fixed: a test row of today
    is a test row for ever, whatever the parameter `seed` says. Defined in chapter 01.
    """
    splits = dict(dataset)
    for name in ("test", "validation"):
        if name not in splits:
            parts = splits["train"].train_test_split(test_size=held_out, seed=42)
            splits["train"], splits[name] = parts["train"], parts["test"]
    return DatasetDict(splits)


def tokenize(batch, tokenizer, max_length):
    """Return `input_ids`, `token_type_ids` and `attention_mask` of `batch["text"]`.

    Texts longer than `max_length` tokens are cut. Defined in chapter 01.
    """
    return tokenizer(batch["text"], truncation=True, max_length=max_length)


def prepare_data(settings):
    """Return the tokenized rows `train`, `validation` and `eval` as a DatasetDict.

    Takes them from `run_dir` if chapter 01 left them there with the same settings, and else
    takes the steps of chapter 01. Columns: text, label, input_ids, token_type_ids, attention_mask.

    Raises ParameterError if there are fewer rows than asked for, SourceError if a column is missing.
    """
    folder, stamp = run_folder(settings) / "data", made_by(settings, DATA_PARAMETERS)
    if is_made_by(folder, stamp):
        return load_from_disk(folder)
    source = find_dataset(settings.dataset_name)
    dataset = load_dataset(source.path, **source.options)
    if source.only is not None:
        dataset = dataset.filter(lambda name: name == source.only, input_columns="source")
    check_columns(dataset, settings)
    dataset = clean(dataset, settings.text_column, settings.label_column)
    dataset = split(encode_labels(dataset, source.label_names), HELD_OUT)
    check_enough_rows(settings, *(len(dataset[name]) for name in ("train", "validation", "test")))
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.model_name))
    tokenized = dataset.map(
        tokenize,
        batched=True,
        fn_kwargs={"tokenizer": tokenizer, "max_length": settings.max_length},
    )
    shuffled = tokenized.shuffle(seed=settings.seed)
    small = DatasetDict(
        train=shuffled["train"].select(range(settings.num_train)),
        validation=shuffled["validation"].select(range(settings.num_validation)),
        eval=shuffled["test"].select(range(settings.num_eval)),
    )
    save_data(small, settings)
    return small


def save_data(dataset, settings):
    """Write the rows of `prepare_data` to `run_dir/data`."""
    with new_folder(run_folder(settings) / "data", made_by(settings, DATA_PARAMETERS)) as folder:
        dataset.save_to_disk(folder)


def check_columns(dataset, settings):
    """Raise SourceError unless the data set has a split `train` with the text and the label column."""
    if "train" not in dataset:
        raise SourceError(
            f"{settings.dataset_name!r} has no split 'train'; it has {', '.join(dataset)}"
        )
    columns = dataset["train"].column_names
    for parameter in ("text_column", "label_column"):
        if getattr(settings, parameter) not in columns:
            raise SourceError(
                f"{parameter}: {settings.dataset_name!r} has no column {getattr(settings, parameter)!r};"
                f" it has {', '.join(columns)}"
            )
