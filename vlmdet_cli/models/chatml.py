r"""The chat form of ChatML, which ms-swift's templates of Qwen-VL and of InternVL share:

    <|im_start|>system\nSYSTEM<|im_end|>
    <|im_start|>user\nPICTURE QUESTION<|im_end|>
    <|im_start|>assistant\nANSWER<|im_end|>

A family without a system prompt of its own has no system turn.
"""

from vlmdet_cli.models.family import IMAGE_TAG, Family


class ChatMLFamily(Family):
    """A family whose chat is ChatML. ``picture_text``: what stands in the place of ``<image>``."""

    picture_text: str
    end_tokens: tuple[str, ...] = ("<|im_end|>",)

    def request_text(self, question: str, system: str | None = None) -> str:
        if IMAGE_TAG not in question:
            question = IMAGE_TAG + question
        turns = [("user", question.replace(IMAGE_TAG, self.picture_text))]
        if system := self.system_prompt if system is None else system:
            turns.insert(0, ("system", system))
        text = "".join([f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns])
        return f"{text}<|im_start|>assistant\n"

    def row_text(self, question: str, answer: str, system: str | None = None) -> str:
        return f"{self.request_text(question, system)}{answer}<|im_end|>\n"
