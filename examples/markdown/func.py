"""Markdown to HTML, by a package that travels inside the zip."""

import markdown


def run(text):
    return {"html": markdown.markdown(text)}
