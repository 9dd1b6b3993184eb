"""A small shop in WebShop's file formats, and episodes in it, for tests."""

import json


def make_item(asin, **fields):
    return {
        "name": f"Plain Desk Lamp {asin}",
        "asin": asin,
        "full_description": "A lamp.",
        "small_description": ["Gives light", " Stands alone "],
        "pricing": "$34.00",
        "customization_options": {},
        "product_category": "Home \u203a Lighting \u203a Desk Lamps",
        "category": "garden",
        "query": "Desk Lamps ",
        "images": ["x.jpg"],
    } | fields


LAMP = make_item(
    "B000000001",
    name=" Bright Lamp ",
    customization_options={
        "Color": [{"value": " Red/Blue ", "image": None}, {"value": "Navy"}],
        "Size": [{"value": "large"}, {"value": "x-large"}],
        "Odd": None,
    },
)
LAMP_ANNOTATION = {
    "attributes": ["easy clean", "long lasting"],
    "instruction": "Find me easy clean lamps",
    "instruction_attributes": ["easy clean"],
}


def write_shop(folder, items, annotations, human=None):
    for name, content in (
        ("items_shuffle_1000.json", items),
        ("items_ins_v2_1000.json", annotations),
        ("items_human_ins.json", human or {}),
    ):
        (folder / name).write_text(json.dumps(content))
    return folder


def play(env, item_id, make_oracle):
    """Lets an oracle play a task; returns its answers and what each led to."""
    observation = env.reset(item_id)
    oracle = make_oracle(env)
    turns = []
    while True:
        answer = oracle.act(observation)
        result = env.step(answer)
        turns.append((answer, result))
        if result.done:
            return turns
        observation = result.observation
