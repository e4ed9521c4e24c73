"""`mmmeta demo`: a page in the browser to try a model on an image.

`found` looks for trained models, `engine` runs one, `drawing` shows what it found,
`page` is the page, and `server` serves it.
"""
