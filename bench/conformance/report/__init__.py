"""How a conformance run is shown: text, a JSON document, an HTML page, JUnit XML, counts in Markdown."""
