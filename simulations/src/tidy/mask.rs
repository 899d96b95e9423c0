//! Blanks out comments and literals, so that rules see code only. Every line keeps its place and its length.

use std::ops::Range;

/// A source with its comments and the contents of its literals replaced by spaces.
#[derive(Clone, Debug)]
pub struct Masked {
    code: String,
}

/// What the scanner is inside of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Code,
    LineComment,
    /// With how deeply it is nested.
    BlockComment(usize),
    /// A literal ended by this character; a backslash escapes.
    Quoted(char),
    /// `r"…"` with so many `#`.
    Raw(usize),
}

impl Masked {
    /// Rust.
    #[must_use]
    pub fn of_rust(text: &str) -> Self {
        Self::scan(text, true)
    }

    /// JavaScript or C.
    #[must_use]
    pub fn of_braces(text: &str) -> Self {
        Self::scan(text, false)
    }

    fn scan(text: &str, rust: bool) -> Self {
        let characters: Vec<char> = text.chars().collect();
        let mut code = String::with_capacity(text.len());
        let mut inside = Inside::Code;
        let mut at = 0;
        while let Some(&character) = characters.get(at) {
            let rest = &characters[at..];
            let (after, length, keep) = match inside {
                Inside::Code if rust => rust_code(rest, at > 0 && is_word(characters[at - 1])),
                Inside::Code if begins_regex(rest, &code) => (Inside::Quoted('/'), 1, true),
                Inside::Code => brace_code(rest),
                _ => literal(inside, rest, rust),
            };
            for consumed in &rest[..length.min(rest.len())] {
                code.push(if keep || *consumed == '\n' { *consumed } else { ' ' });
            }
            inside = after;
            at += length.max(1);
            debug_assert!(length > 0, "{character:?} is not consumed");
        }
        Self { code }
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The code with items under `#[cfg(test)]` blanked out.
    #[must_use]
    pub fn without_tests(&self) -> String {
        let mut code = self.code.clone();
        for test in self.tests() {
            let blank: String =
                code[test.clone()].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            let wide = test.len() - blank.len();
            code.replace_range(test, &(blank + &" ".repeat(wide)));
        }
        code
    }

    /// How many lines the items under `#[cfg(test)]` take.
    #[must_use]
    pub fn test_lines(&self) -> usize {
        self.tests().into_iter().map(|test| self.code[test].lines().count()).sum()
    }

    fn tests(&self) -> Vec<Range<usize>> {
        let mut tests = vec![];
        let mut from = 0;
        while let Some(start) = self.code[from..].find(TEST_ATTRIBUTE).map(|at| from + at) {
            from = start + item_end(&self.code[start..]);
            tests.push(start..from);
        }
        tests
    }
}

const TEST_ATTRIBUTE: &str = "#[cfg(test)]";

/// Where the item that begins here ends: at a `;`, or behind its braces.
fn item_end(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, character) in code.char_indices() {
        match character {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn starts(rest: &[char], with: &str) -> bool {
    with.chars().enumerate().all(|(at, expected)| rest.get(at) == Some(&expected))
}

/// In code: what comes next, how many characters that takes, and whether they are code.
fn rust_code(rest: &[char], in_word: bool) -> (Inside, usize, bool) {
    if !in_word && let Some((hashes, length)) = raw_string(rest) {
        return (Inside::Raw(hashes), length, true);
    }
    match rest[0] {
        '\'' => char_or_lifetime(rest),
        '`' => (Inside::Code, 1, true),
        _ => brace_code(rest),
    }
}

fn brace_code(rest: &[char]) -> (Inside, usize, bool) {
    match rest[0] {
        _ if starts(rest, "//") => (Inside::LineComment, 2, false),
        _ if starts(rest, "/*") => (Inside::BlockComment(1), 2, false),
        quote @ ('"' | '\'' | '`') => (Inside::Quoted(quote), 1, true),
        _ => (Inside::Code, 1, true),
    }
}

/// Whether a slash begins a regular expression of JavaScript: it does where an operand is due.
fn begins_regex(rest: &[char], before: &str) -> bool {
    let is_comment = matches!(rest.get(1), Some('/' | '*'));
    let before = before.trim_end();
    let behind_operator = before.chars().next_back().is_none_or(|c| "(,=:[!&|?{};".contains(c));
    let operand_is_due = behind_operator || before.ends_with("return");
    rest[0] == '/' && !is_comment && operand_is_due
}

/// `r"`, `br#"` and the like: hashes and length.
fn raw_string(rest: &[char]) -> Option<(usize, usize)> {
    let prefix = rest.iter().take_while(|c| matches!(c, 'r' | 'b' | 'c')).count();
    let has_r = rest[..prefix].last() == Some(&'r');
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let opens = rest.get(prefix + hashes) == Some(&'"');
    (has_r && opens && prefix <= 2).then_some((hashes, prefix + hashes + 1))
}

/// `'x'`, `'\n'`, or `'lifetime`.
fn char_or_lifetime(rest: &[char]) -> (Inside, usize, bool) {
    let is_char = rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'');
    if is_char { (Inside::Quoted('\''), 1, true) } else { (Inside::Code, 1, true) }
}

fn literal(inside: Inside, rest: &[char], rust: bool) -> (Inside, usize, bool) {
    match (inside, rest[0]) {
        (Inside::LineComment, '\n') => (Inside::Code, 1, true),
        (Inside::BlockComment(1), _) if starts(rest, "*/") => (Inside::Code, 2, false),
        (Inside::BlockComment(depth), _) if starts(rest, "*/") => (Inside::BlockComment(depth - 1), 2, false),
        (Inside::BlockComment(depth), _) if rust && starts(rest, "/*") => {
            (Inside::BlockComment(depth + 1), 2, false)
        }
        (Inside::Quoted(_), '\\') => (inside, 2, false),
        (Inside::Quoted(quote), character) if character == quote => (Inside::Code, 1, true),
        (Inside::Raw(hashes), '"') if starts(&rest[1..], &"#".repeat(hashes)) => {
            (Inside::Code, 1 + hashes, true)
        }
        _ => (inside, 1, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let source = "let a = \"x // {\"; // y {\n/* { /* { */ */ let b = r#\"\"{\"#;\nlet c = '{'; let d: &'a str = b'\\'';";
        let masked = Masked::of_rust(source);
        assert_eq!(masked.code().matches('{').count(), 0, "{}", masked.code());
        assert_eq!(masked.code().lines().count(), 3);
        assert_eq!(masked.code().chars().count(), source.chars().count());
        for kept in ["let a", "let b", "let c", "let d: &'a str"] {
            assert!(masked.code().contains(kept), "{kept} in {}", masked.code());
        }
    }

    #[test]
    fn javascript_templates_are_literals() {
        assert_eq!(Masked::of_braces("let a = `${b} {`; f('{');").code().matches('{').count(), 0);
    }

    #[test]
    fn javascript_regular_expressions_are_literals() {
        let code = Masked::of_braces("a.split(/(\"{2}\\/)/); b = c / d; { e('/') } return /:'{/;");
        assert_eq!(code.code().matches('{').count(), 1, "{}", code.code());
    }

    #[test]
    fn test_modules_are_not_product_code() {
        let source =
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { c() }\n}\nfn d() {}\n#[cfg(test)]\nmod e;\n";
        let code = Masked::of_rust(source).without_tests();
        assert!(code.contains("fn a") && code.contains("fn d"));
        assert!(!code.contains("fn b") && !code.contains("mod e"));
        assert_eq!(code.lines().count(), source.lines().count());
    }
}
