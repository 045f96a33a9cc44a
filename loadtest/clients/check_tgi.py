"""The unmodified text-generation client against a gateway: check_tgi.py BASE_URL"""

import sys

import checks
import text_generation
from text_generation.errors import ValidationError

client = text_generation.Client(sys.argv[1], timeout=60)
prompt = "Once upon a time"


def generate():
    answer = client.generate(prompt, max_new_tokens=12)
    assert answer.generated_text, answer
    assert answer.details.generated_tokens == 12, answer.details
    assert answer.details.finish_reason == "length", answer.details
    assert len(answer.details.tokens) == 12, answer.details


def stream_equals_unstreamed():
    whole = client.generate(prompt, max_new_tokens=12).generated_text
    events = list(client.generate_stream(prompt, max_new_tokens=12))
    assert len(events) >= 12, f"{len(events)} events"
    assert "".join(e.token.text for e in events if not e.token.special) == whole, (events, whole)
    assert events[-1].generated_text == whole, events[-1]
    assert events[-1].details.generated_tokens == 12, events[-1]


def stop_sequence():
    whole = client.generate(prompt, max_new_tokens=12).generated_text
    stop = whole.split()[2]
    answer = client.generate(prompt, max_new_tokens=12, stop_sequences=[stop])
    assert answer.details.finish_reason == "stop_sequence", answer.details
    assert stop in answer.generated_text and len(answer.generated_text) < len(whole), answer


def return_full_text():
    answer = client.generate(prompt, max_new_tokens=4, return_full_text=True)
    assert answer.generated_text.startswith(prompt), answer


def bad_parameter():
    for limit in (0, -1, 10**9):
        try:
            client.generate(prompt, max_new_tokens=limit)
        except ValidationError:
            continue
        raise AssertionError(f"max_new_tokens={limit} was accepted")


checks.run([generate, stream_equals_unstreamed, stop_sequence, return_full_text, bad_parameter])
