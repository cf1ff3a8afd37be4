"""A local page to try a model and to label images.

- `server.py`: `twostage serve`, from the command to the running page.
- `app.py`: the routes of the page, and the limits of what it accepts.
- `guard.py`: protection against other machines and other sites.
- `assessor.py`, `neighbours.py`: answers about an image, and the training images near it.
- `drawing.py`: a drawing in the form of the data sets of digits.
- `pool.py`, `labelling.py`, `label_file.py`: images to label, the answers, and their csv file.
- `pictures.py`: pixels as pictures for the browser.
- `page/`: the page itself: HTML, one style sheet, one script.
"""
