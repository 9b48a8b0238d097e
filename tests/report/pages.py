"""Reading a page that was written."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def charts_of(page):
    return json.loads(re.search(r'id="charts">(.*?)</script>', page, re.DOTALL).group(1))
