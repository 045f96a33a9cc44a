"""The unmodified openai client against a gateway: check_openai.py BASE_URL MODEL"""

import sys

import checks
import openai

base_url, model = sys.argv[1:]
client = openai.OpenAI(base_url=base_url + "/v1", api_key="none", timeout=60, max_retries=0)
messages = [{"role": "user", "content": "Name three colours."}]


def unstreamed_chat():
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=12)
    assert answer.choices[0].message.content, answer
    assert answer.choices[0].finish_reason in ("length", "stop"), answer
    assert answer.usage.completion_tokens > 0, answer


def streamed_chat():
    chunks = list(
        client.chat.completions.create(model=model, messages=messages, max_tokens=12, stream=True)
    )
    text = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(text) > 3, f"{len(text)} chunks with text"
    assert any(c.choices and c.choices[0].finish_reason for c in chunks), chunks[-1]
    assert not any(c.usage for c in chunks), "usage nobody asked for"


def streamed_chat_with_usage():
    chunks = list(
        client.chat.completions.create(
            model=model, messages=messages, max_tokens=12, stream=True,
            stream_options={"include_usage": True},
        )
    )
    usage = [c.usage for c in chunks if c.usage]
    assert usage and usage[-1].completion_tokens > 0, "no usage"


def completions():
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8)
    assert answer.choices[0].text, answer
    chunks = list(
        client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, stream=True)
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices), chunks


def models():
    assert model in [entry.id for entry in client.models.list()]


def unknown_model():
    try:
        client.chat.completions.create(model="nobody", messages=messages, max_tokens=4)
    except openai.NotFoundError as error:
        assert model in str(error), error
    else:
        raise AssertionError("an unknown model was accepted")


def bad_request():
    for wrong in ({"max_tokens": -1}, {"max_tokens": 10**9}, {"n": 0}):
        try:
            client.chat.completions.create(model=model, messages=messages, **wrong)
        except openai.BadRequestError as error:
            assert error.param in wrong, (wrong, error.param)
        else:
            raise AssertionError(f"{wrong} was accepted")


def leaving_early():
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=256, stream=True
    )
    next(iter(stream))
    stream.close()
    unstreamed_chat()


checks.run([
    unstreamed_chat, streamed_chat, streamed_chat_with_usage, completions, models, unknown_model,
    bad_request, leaving_early,
])
