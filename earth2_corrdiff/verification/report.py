# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML file with all scores and figures, without scripts and without external files."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from earth2_corrdiff.base.files import whole, writing
from earth2_corrdiff.verification import captions, figures, tables
from earth2_corrdiff.verification.result import Result
from earth2_corrdiff.verification.tables import Table
from earth2_corrdiff.verification.targets import Target

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f23; max-width: 1160px; margin: 2em auto;
  padding: 0 1.2em; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.15em; margin: 2em 0 .3em; }
p, figcaption, li { max-width: 62em; } figcaption, .caption { color: #4a5560; font-size: .92em; }
figure { margin: .8em 0 1.6em; } img { max-width: 100%; height: auto; }
.note { background: #fff4dc; border-left: 4px solid #d99a1c; padding: .5em .9em; margin: .5em 0;
  max-width: 60em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9em; font-variant-numeric: tabular-nums; }
th, td { padding: .22em .75em; border-bottom: 1px solid #dde2e7; text-align: right; white-space: nowrap; }
th.label, td.label { text-align: left; } thead th { border-bottom: 2px solid #9aa5b1; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""


def html(result: Result, title: str) -> str:
    """The report as one page.

    Parameters
    ----------
    result : Result
        Result of a verification
    title : str
        Heading: the store that was verified
    """
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(tables.head(result))}.</p>"]
    body += [f'<p class="note">{escape(note)}</p>' for note in result.notes]
    body += [_list(captions.findings(result)), _table(tables.crps_table(result))]
    if any(name != "climatology" for name in result.forecasts[1:]):
        sure = result.bootstrap.applies(result.draws)
        caption = f"{captions.GAINS} Lines: the intervals of the table." if sure else captions.GAINS
        body.append(_picture(figures.gains(result), caption))
    if result.by_lead:
        body += [_picture(figures.by_lead(result), captions.LEADS)] if len(result.by_lead) > 1 else []
        body.append(_table(tables.lead_table(result)))
    body.append(_table(tables.ensemble_table(result)))
    for i, target in enumerate(result.targets):
        body += _section(result, target, captions.PORTRAIT if i == 0 else captions.AS_ABOVE)
    if any(target.thresholds for target in result.targets):
        forecasts = [name for name in result.forecasts if name != "climatology"]
        body.append(_table(tables.event_table(result, forecasts)))
    body.append(_table(tables.tail_table(result)))
    body += ["<h2>How it is computed</h2>", _list(captions.METHOD), "<h2>Provenance</h2>", _about(result)]
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(body))


def write_report(result: Result, path: Path, title: str) -> None:
    """Write the report; InputError if it cannot be written."""
    page = html(result, title)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_text(page, encoding="utf-8")


def _section(result: Result, target: Target, caption: str) -> list[str]:
    heading = f"<h2>{escape(target.label[:1].upper() + target.label[1:])} ({escape(target.name)})</h2>"
    parts = [heading, _picture(figures.portrait(result, target), caption)]
    if target.thresholds:
        parts.append(_picture(figures.events(result, target), captions.EVENTS))
    return parts


def _picture(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "earth2_corrdiff"}):  # the same figure has the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ['class="label"' if i < table.labels else "" for i in range(len(cells))]
        pairs = zip(kinds, cells, strict=True)
        return "".join(f"<{tag} {kind}>{escape(cell)}</{tag}>" for kind, cell in pairs)

    lines = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows)
    head = f"<thead><tr>{row(table.header, 'th')}</tr></thead>"
    caption = f'<h2>{escape(table.title)}</h2><p class="caption">{escape(table.caption)}</p>'
    return f'{caption}<div class="wide"><table>{head}<tbody>{lines}</tbody></table></div>'


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _about(result: Result) -> str:
    spacing = " x ".join(f"{value:.3g}" for value in result.domain.spacing)
    rows = {**result.about, "truth": result.truth, "grid spacing, km": spacing}
    pairs = ((escape(key.replace("_", " ")), escape(value)) for key, value in rows.items())
    cell = '<td class="label">'
    lines = "".join(f"<tr>{cell}{key}</td>{cell}{value}</td></tr>" for key, value in pairs)
    return f'<div class="wide"><table><tbody>{lines}</tbody></table></div>'
