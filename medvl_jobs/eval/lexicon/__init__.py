"""The words by which an answer names what `contracts.facts` knows, in English and in Chinese.

- `vocabulary`: the names themselves, and what a language has to say about them (`Lexicon`);
- `english`, `chinese`: one table per field, a name and the words for it;
- `english_rules`, `chinese_rules`: sides, negation, hedges, positions and percentages.

The names in the tables are the same, so an answer in Chinese is judged against a reference in English.
"""
