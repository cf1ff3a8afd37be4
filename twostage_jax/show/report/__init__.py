"""The page `report.html`: one self-contained file for a run, or for a comparison of runs.

blocks.py    the parts of a section: text, facts, tables, drawings, galleries
images.py    pictures embedded in the page
charts.py    drawings of the page alone: reliability, map of features, members, runs
vector.py    an SVG file as a part of the page, in its colours
content.py   what a run's page is made of
result.py    sections: result, study of labels, data and training
figures.py   sections: confusion, classes, calibration
features.py  sections: reconstructions, views, map, neighbours, mistakes, epochs
guard.py     sections: images of no class, duplicates, groups
checks.py    sections: broken files, ensemble, sweep, proof, times, commands
run.py       the page of a run
compare.py   the page of several runs
page.py      sections to HTML, with page.html, page.css and page.js
"""
