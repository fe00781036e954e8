"""swift plug-in: makes the demo's tiny Qwen2-VL known, as ``--external_plugins plugin.py --template vlmdet_demo``.

swift's Qwen2-VL template has the picture token's id of the real vocabulary fixed in code. With another vocabulary
it would train without pictures, and say nothing. This one takes the ids from the model's own tokenizer.
"""

from typing import Any

from swift.template import register_template
from swift.template.templates.qwen import Qwen2VLTemplate, QwenTemplateMeta


class DemoTemplate(Qwen2VLTemplate):  # type: ignore[misc]
    """Qwen2-VL's template with the ids of a small vocabulary."""

    def init_processor(self, processor: Any) -> None:
        super().init_processor(processor)
        if processor is not None:
            self.image_token_id = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
            self.video_token_id = self.tokenizer.convert_tokens_to_ids("<|video_pad|>")


register_template(QwenTemplateMeta("vlmdet_demo", template_cls=DemoTemplate))
