"""What a report says of the classes that prompts asked for: in its protocol, its ledger and its notes."""

from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.errors import counted
from vlmdet_cli.prompts.asking import classes_by_prompt
from vlmdet_cli.stages.evaluation.prediction_files import Predictions

_ASKED = {
    "all": "all classes",
    "each": "one class in each prompt",
    "present": "the classes that each picture has, taken from the truth",
}


def asked_in_words(predictions: Predictions) -> str:
    """What prompts asked for, in words."""
    if predictions.ask != "rows":
        return _ASKED[predictions.ask]
    return "all classes" if predictions.asked is None else "classes named in each prompt"


def notes(truth: Truth, predictions: Predictions) -> list[str]:
    """What the user should know of the predictions, in sentences."""
    sentences = list(predictions.notes)
    if _asked_for_present_classes(truth, predictions):
        sentences.append(
            "The prompts named the very classes that each picture has, and only the truth knows them. This flatters: "
            "no class was asked for where it is absent. Do not compare such numbers with those of other prompts."
        )
    if predictions.missing:
        sentences.append(
            f"{counted(predictions.missing, 'prompt has', 'prompts have')} no answer; what they ask for counts as "
            "missed. Run the same `vlmdet infer` again."
        )
    return sentences


def _asked_for_present_classes(truth: Truth, predictions: Predictions) -> bool:
    """Whether no prompt named a class that its picture lacks; pictures without objects are left aside."""
    if predictions.ask == "present":
        return True
    if predictions.asked is None:
        return False
    present = classes_by_prompt(truth.data, "present")
    return all(names <= set(present[n][0] or ()) for n, names in predictions.asked.items() if present[n])


def without_prompts(truth: Truth, predictions: Predictions) -> int:
    """The pictures without an answer that are not asked about, because the truth has no object in them."""
    if predictions.ask != "present":
        return 0
    prompts = classes_by_prompt(truth.data, predictions.ask)
    return sum(not classes and number not in predictions.answered for number, classes in enumerate(prompts))
