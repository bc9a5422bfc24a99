"""Record what a Hugging Face Trainer trains by adding a callback.

A small BERT, made from its configuration, learns which of three topics a sentence is about; sentences are put together
from lists of words, and nothing is downloaded. The import and the lines marked ``# lesde`` are all that recording adds;
the weights come out bit by bit the same without.

    python examples/own_transformers.py [--steps 400] [--out-dir own-transformers-results] [--force]
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

from data_tools import Probe, Recording
from data_tools.drift_measures import class_means
from data_tools.transformers import ElasticityCallback

TOPICS = (
    "river mountain forest rain valley stream meadow storm",
    "goal player match referee team coach stadium score",
    "bread butter oven flour sugar recipe kitchen spoon",
)
FILLERS = "the a we they saw like near with after before some every old new our this"
WORDS = ["[pad]", *FILLERS.split(), *" ".join(TOPICS).split()]
LONGEST = 10


def make_sentences(n: int, seed: int) -> list[dict[str, object]]:
    """Return n sentences of 5 to 10 words, of which two to four are about the topic and one may be about another."""
    rng = random.Random(seed)  # noqa: S311
    sentences: list[dict[str, object]] = []
    for number in range(n):
        topic = number % len(TOPICS)
        words = rng.choices(TOPICS[topic].split(), k=rng.randint(2, 4)) + rng.choices(" ".join(TOPICS).split(), k=1)
        words += rng.choices(FILLERS.split(), k=rng.randint(5, LONGEST) - len(words))
        rng.shuffle(words)
        sentences.append({"words": words, "label": topic})
    return sentences


def collate(sentences: list[dict[str, list[str]]]) -> dict[str, torch.Tensor]:
    """Give the words of some sentences numbers, and pad them."""
    numbers = [[WORDS.index(word) for word in sentence["words"]] for sentence in sentences]
    padded = torch.tensor([row + [0] * (LONGEST - len(row)) for row in numbers])
    labels = torch.tensor([sentence["label"] for sentence in sentences])
    return {"input_ids": padded, "attention_mask": (padded > 0).long(), "labels": labels}


def train(folder: Path, steps: int, *, force: bool) -> None:
    """Train, and record the first vector that the encoder gives and the logits, of 60 other sentences of each topic."""
    set_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
        num_labels=len(TOPICS),
    )
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=8,
        max_steps=steps,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    probe = Probe.from_dataset(make_sentences(240, seed=1), per_class=60, collate=collate)  # lesde
    layers = ["bert.encoder:first", "classifier"]
    recorder = ElasticityCallback(folder / "run.h5", probe, layers, every=steps // 50, force=force)  # lesde
    trainer = Trainer(
        BertForSequenceClassification(config),
        arguments,
        data_collator=collate,
        train_dataset=make_sentences(1200, seed=0),
        callbacks=[recorder],  # lesde
    )
    trainer.train()


def report(path: Path) -> None:
    """Say how far the classes' mean logits have moved apart, and what to do next."""
    with Recording(path) as recording:
        for record in np.linspace(0, recording.n_records - 1, 5).astype(int):
            logits = recording.features("classifier")[record]
            means = class_means(logits, recording.labels, recording.n_classes)
            spread = np.linalg.norm(means - means.mean(axis=0), axis=1).mean()
            step, accuracy = recording.steps[record], recording.scalars["accuracy"][record]
            print(f"step {step:>5}: class means {spread:5.2f} from their centre, accuracy {accuracy:.2f}")
    print(f"next: lesde fit {path} --layer classifier")


def main() -> None:
    """Train, and say what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=400, help="updates, 100 at least")
    parser.add_argument("--out-dir", type=Path, default=Path("own-transformers-results"), help="folder for results")
    parser.add_argument("--force", action="store_true", help="replace what an earlier run made")
    arguments = parser.parse_args()
    if arguments.steps < 100:
        parser.error(f"--steps is {arguments.steps}; give 100 or more")
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    train(arguments.out_dir, arguments.steps, force=arguments.force)
    report(arguments.out_dir / "run.h5")


if __name__ == "__main__":
    main()
