"""Training on conversations: under every chat template, the loss reads the answers and the ends of turns."""

# ruff: noqa: E501 - templates are written out as their authors wrote them

import json
from pathlib import Path
from typing import cast

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from editors.errors import DataError
from pipeline.data.pairs import Conversation, Message, Pair, PairRows
from pipeline.interventions.training.conversations import IGNORED, encode_conversation
from pipeline.interventions.training.examples import Completions
from tests.tiny import tiny_model

CHATML = (  # SmolLM2-Instruct; with its default system prompt
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] "
    "| trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN25 = (  # without its part about tools
    "{%- if messages[0]['role'] == 'system' %}\n"
    "    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n{%- else %}\n"
    "    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\\n' }}\n{%- endif %}\n{%- for message in messages %}\n"
    '    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or '
    '(message.role == "assistant" and not message.tool_calls) %}\n'
    "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
    "    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
QWEN3 = (  # without its parts about tools
    "{%- if messages[0].role == 'system' %}\n"
    "    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n{%- endif %}\n"
    "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n"
    "{%- for message in messages[::-1] %}\n"
    "    {%- set index = (messages|length - 1) - loop.index0 %}\n"
    '    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}\n'
    "        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n"
    "    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n"
    "    {%- set content = message.content %}\n"
    '    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}\n'
    "        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n"
    "    {%- elif message.role == \"assistant\" %}\n        {%- set reasoning_content = '' %}\n"
    "        {%- if '</think>' in content %}\n"
    "            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1]"
    ".lstrip('\\n') %}\n            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n"
    "        {%- endif %}\n        {%- if loop.index0 > ns.last_query_index %}\n"
    "            {%- if loop.last or (not loop.last and reasoning_content) %}\n"
    "                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + "
    "'\\n</think>\\n\\n' + content.lstrip('\\n') }}\n            {%- else %}\n"
    "                {{- '<|im_start|>' + message.role + '\\n' + content }}\n            {%- endif %}\n"
    "        {%- else %}\n            {{- '<|im_start|>' + message.role + '\\n' + content }}\n"
    "        {%- endif %}\n        {{- '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim "
    "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
LLAMA2 = (  # without its part about the system prompt
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + "
    "'<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + "
    "'<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}"
    "{{ eos_token }}{% endif %}"
)
MARKED = (  # ChatML for training: the learnt part is marked
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TIGHT = "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
BARE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ 'Today Date: ' + date_string + '\n' }}" + CHATML
)
TEMPLATES = {
    "chatml": (CHATML, ["Paris", "<|im_end|>"]),
    "llama-3": (LLAMA3, ["Paris", "<|eot_id|>"]),
    "qwen-2.5": (QWEN25, ["Paris", "<|im_end|>"]),
    "qwen-3": (QWEN3, ["Paris", "<|im_end|>"]),
    "gemma": (GEMMA, ["Paris", "<end_of_turn>"]),
    "mistral": (MISTRAL, ["Paris", "</s>"]),
    "llama-2": (LLAMA2, [" Paris", " ", "</s>"]),
    "phi-3": (PHI3, ["Paris", "<|end|>"]),
    "marked": (MARKED, ["Paris", "<|im_end|>"]),
    "bare": (BARE, [" Paris", "</s>"]),
    "dated": (DATED, ["Paris", "<|im_end|>"]),
}
"""A template, and the tokens that the loss reads of the answer `Paris`."""
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>",
]  # fmt: skip
PAIR = Pair("What is the capital of France?", "Paris")


def chat_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE that adds a BOS, with every special token of the templates and whole words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(
        ["Paris", " Paris", "Rome", " Rome", "What is the capital of France? Italy?"] * 9, trainer
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})  # pyright: ignore[reportArgumentType]
    tokenizer.add_tokens(["<think>", "</think>"])  # not special, as in Qwen 3
    tokenizer.chat_template = template
    return tokenizer


def spelt(tokenizer: PreTrainedTokenizerFast, row: dict[str, list[int]]) -> list[str]:
    """The tokens that the loss reads, which stand at the same places in the inputs."""
    read = [
        (token, label)
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
        if label != IGNORED
    ]
    assert all(token == label for token, label in read)
    return [cast(str, tokenizer.decode([token])) for token, _ in read]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_loss_reads_the_answer_and_the_end_of_its_turn(name: str):
    template, tokens = TEMPLATES[name]
    tokenizer = chat_tokenizer(template)
    row = encode_conversation(tokenizer, PAIR.messages)
    assert spelt(tokenizer, row) == tokens
    assert row["labels"][-1] == row["input_ids"][-1]  # nothing follows the end of the turn
    assert row["input_ids"].count(0) == template.count("bos_token")


@pytest.mark.parametrize("name", TEMPLATES)
def test_of_several_turns_the_answers_are_read_each_with_its_end(name: str):
    template, tokens = TEMPLATES[name]
    tokenizer = chat_tokenizer(template)
    more: list[Message] = [
        {"role": "user", "content": "What is the capital of Italy?"},
        {"role": "assistant", "content": "Rome"},
    ]
    row = encode_conversation(tokenizer, [*PAIR.messages, *more])
    first = tokens[:1] if name == "bare" else tokens  # nothing ends its turns but the last
    assert spelt(tokenizer, row) == first + [token.replace("Paris", "Rome") for token in tokens]


def test_an_answer_that_occurs_in_the_question_and_the_template_is_found():
    tokenizer = chat_tokenizer(QWEN3)
    row = encode_conversation(tokenizer, Pair("Is Paris a think or an end?", "think").messages)
    assert "".join(spelt(tokenizer, row)) == "think<|im_end|>"
    assert str(tokenizer.decode(row["input_ids"])).endswith("<think>\n\n</think>\n\nthink<|im_end|>")


@pytest.mark.parametrize(
    "template", [DATED, "{{ 'Today Date: ' + strftime_now('%d %b %Y') + '\n' }}" + CHATML]
)
def test_the_day_on_which_a_model_is_trained_does_not_change_the_tokens(template: str):
    tokenizer = chat_tokenizer(template)
    text = str(tokenizer.decode(encode_conversation(tokenizer, PAIR.messages)["input_ids"]))
    assert text.startswith("Today Date: 26 Jul 2024")


def test_an_answer_directly_after_a_token_of_its_own_is_found():
    tokenizer = chat_tokenizer(TIGHT)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert spelt(tokenizer, encode_conversation(tokenizer, PAIR.messages)) == [" Paris", "<|end|>"]


def test_a_line_break_that_was_added_as_a_token_ends_no_turn():
    tokenizer = chat_tokenizer(BARE.replace("'\n'", "'\n\n'"))
    tokenizer.add_tokens(["\n\n"])
    messages: list[Message] = [*PAIR.messages, {"role": "user", "content": "Italy?"}]
    assert spelt(tokenizer, encode_conversation(tokenizer, messages)) == [" Paris", "</s>"]


@pytest.mark.parametrize(
    "fault",
    [
        "{{ 1 / 0 }}",
        "{% for i in range(100001) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_fails_says_so(fault: str):
    with pytest.raises(DataError, match="refuses the conversation"):
        encode_conversation(chat_tokenizer(CHATML + fault), PAIR.messages)


def test_a_template_that_refuses_a_conversation_says_so():
    messages: list[Message] = [{"role": "system", "content": "Be brief."}, *PAIR.messages]
    with pytest.raises(DataError, match=r"refuses the conversation 'Be brief.'.*System role not supported"):
        encode_conversation(chat_tokenizer(GEMMA), messages)


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        (QWEN3, "<think>\nItaly\n</think>\n\nRome"),
        ("{% for message in messages %}{{ message['content'] | upper }}{% endfor %}", "Rome"),
        ("{{ messages[0]['content'] }}", "Rome"),
    ],
)
def test_an_answer_that_the_template_changes_or_leaves_out_is_refused(template: str, answer: str):
    with pytest.raises(DataError, match="changes or leaves out one of the answers"):
        encode_conversation(chat_tokenizer(template), Pair("What is the capital of Italy?", answer).messages)


def test_conversations_of_a_file_are_read_turn_by_turn(tmp_path: Path):
    path = tmp_path / "conversations.jsonl"
    turns = [{"role": "user", "content": "Rob?"}, {"role": "assistant", "content": " a poet\n"}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    rows = PairRows(path=str(path), messages="messages")
    (conversation,) = rows
    assert isinstance(conversation, Conversation)
    assert conversation.messages == [turns[0], {"role": "assistant", "content": "a poet"}]
    with pytest.raises(DataError, match="tiny-gpt2 has no chat template"):
        Completions(pairs=rows, length=16).load(tiny_model(), rows=1)


@pytest.mark.parametrize(
    "turns",
    [
        None,
        "text",
        [],
        [{"role": "user", "content": "Rob?"}],
        [{"role": "user", "content": "Rob?"}, {"role": "assistant", "content": " "}],
        [{"role": "user", "content": "Rob?"}, {"role": "assistant", "content": None}],
        [{"from": "human", "value": "Rob?"}],
    ],
)
def test_a_row_without_a_conversation_is_named(tmp_path: Path, turns: object):
    path = tmp_path / "conversations.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(DataError, match=r"line 1 of .* has no conversation in column 'messages'"):
        list(PairRows(path=str(path), messages="messages"))
