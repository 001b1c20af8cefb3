"""Views of a model's inside: interactive pages of one HTML file, and figures.

Each function returns a `View`, which a notebook shows, and which can be saved as a page or drawn as
a matplotlib figure. Its first argument is a model as `Run.model` and `etude.load_pretrained` return
it.
"""

from etude.views.attention_page import attention_view, cross_attention_view
from etude.views.lens_page import lens_view
from etude.views.token_page import token_view
from etude.views.view_page import View

__all__ = ["View", "attention_view", "cross_attention_view", "lens_view", "token_view"]
