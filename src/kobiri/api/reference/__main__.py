"""python -m kobiri.api.reference: make the committed files anew."""

from kobiri.api.reference import files

if __name__ == "__main__":
    for path, text in files.made().items():
        path.write_text(text, encoding="utf-8")
