"""The report of a benchmark, as a page, as Markdown and as JSON, and two of them compared.

Everything here reads the JSON of `BenchReport.to_dict` and knows nothing of how it was measured: `benchmarking` uses this
room, never the other way round. What a report may hold is in `schema`, what it says is in `rows`, `facts` and the sections,
how it looks is in `figures`, `html` and `markdown`.
"""
