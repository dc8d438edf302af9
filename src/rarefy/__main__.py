"""`python -m rarefy`: the command line, where no script of that name is on the path."""

from rarefy.cli.main import app

if __name__ == "__main__":
    app(prog_name="rarefy")
