"""What this function does, in one line."""


def run(name="world"):
    """The members of a JSON object come as arguments; what is returned is the answer, as JSON."""
    return {"greeting": f"Hello, {name}!"}
