"""The report: one page about a day, a week or a month, with its charts, and how it is sent.

::

    period ──► figures ──► charts ──► page ──► file
               (store)    (PNG)      (HTML)  └► mail
"""
