"""What a run prints beside its tables."""

import logging

from bench.cli import report


def test_the_line_of_a_reader_is_shown_once_also_where_it_is_no_warning(capsys):
    report.show_readers()
    report.show_readers()
    logging.getLogger("datasets._reading").info("%s: 3 jobs read, 3 used", "a.csv")
    assert capsys.readouterr().err == "a.csv: 3 jobs read, 3 used\n"
