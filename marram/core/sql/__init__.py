"""AWS IoT SQL: statements of rules, and the expressions inside `${...}`. Pure.

lexer -> parser (a typed tree) -> evaluate (closures); functions are declared in `functions`. The subset that is there:
SELECT of fields, `*`, expressions and aliases, FROM, WHERE, comparison, AND/OR/NOT, arithmetic, topic() and timestamp().
All else is refused when the statement is compiled, by name, with line and column. Source: AWS IoT Core developer guide,
"AWS IoT SQL reference".
"""
