"""The checker that tests put around every annotated function of the package: shapes, types, and an int is a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
