//! How long files and functions are.

use super::Finding;
use super::mask::Masked;
use super::tree::{Language, Source};

/// Lines of a file, tests inside of it not counted.
pub const FILE_LINES_MAX: usize = 500;
/// Lines of a function, from its signature to its end.
pub const FUNCTION_LINES_MAX: usize = 70;

/// Files that are too long.
#[must_use]
pub fn long_file(source: &Source) -> Vec<Finding> {
    let lines = match source.language() {
        Language::Other => return vec![],
        Language::Rust => source.text.lines().count() - Masked::of_rust(&source.text).test_lines(),
        Language::C | Language::JavaScript | Language::Python | Language::Shell => {
            source.text.lines().count()
        }
    };
    let problem = format!("{lines} lines; split it by ideas into files of at most {FILE_LINES_MAX}");
    if lines > FILE_LINES_MAX { vec![Finding::in_file(&source.path, problem)] } else { vec![] }
}

/// Functions that are too long.
#[must_use]
pub fn long_functions(source: &Source) -> Vec<Finding> {
    let functions = match source.language() {
        Language::Rust => braced(Masked::of_rust(&source.text).code(), rust_name),
        Language::JavaScript => braced(Masked::of_braces(&source.text).code(), javascript_name),
        Language::Python => indented(&source.text),
        Language::C | Language::Shell | Language::Other => vec![],
    };
    let too_long = functions.into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX);
    too_long.map(|function| function.finding(&source.path)).collect()
}

/// Files that the scanner loses its way in, so that the other rules would not see what is there.
#[must_use]
pub fn not_understood(source: &Source) -> Vec<Finding> {
    let masked = match source.language() {
        Language::Rust => Masked::of_rust(&source.text),
        Language::JavaScript | Language::C => Masked::of_braces(&source.text),
        Language::Python | Language::Shell | Language::Other => return vec![],
    };
    let count = |bracket| masked.code().matches(bracket).count();
    let pairs = [('{', '}'), ('(', ')'), ('[', ']')];
    let odd = pairs.into_iter().filter(|(open, close)| count(*open) != count(*close));
    odd.map(|(open, close)| Finding::in_file(&source.path, format!("`{open}` and `{close}` do not match")))
        .collect()
}

/// A function and its length.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    line: usize,
    lines: usize,
}

impl Function {
    fn finding(&self, path: &str) -> Finding {
        let Self { name, line, lines } = self;
        Finding::at(path, *line, format!("`{name}` has {lines} lines; at most {FUNCTION_LINES_MAX}"))
    }
}

/// Functions that end where their braces do.
fn braced(code: &str, name: impl Fn(&str) -> Option<String>) -> Vec<Function> {
    let lines: Vec<&str> = code.lines().collect();
    let starts = lines.iter().enumerate().filter_map(|(at, line)| Some((at, name(line)?)));
    let function = |(at, name)| body_lines(&lines[at..]).map(|lines| Function { name, line: at + 1, lines });
    starts.filter_map(function).collect()
}

/// Lines up to the brace that closes the first one opened; none for a declaration without a body.
fn body_lines(lines: &[&str]) -> Option<usize> {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (at, line) in lines.iter().enumerate() {
        for character in line.chars() {
            match character {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets = brackets.saturating_sub(1),
                '{' => braces += 1,
                '}' if braces <= 1 => return Some(at + 1),
                '}' => braces -= 1,
                ';' if braces == 0 && brackets == 0 => return None,
                _ => {}
            }
        }
    }
    None
}

/// The name behind `fn`, where this line begins a function.
fn rust_name(line: &str) -> Option<String> {
    let place = line
        .find("fn ")
        .filter(|place| !line[..*place].ends_with(|c: char| c.is_alphanumeric() || c == '_'))?;
    let name: String = line[place + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The name of a `function` or of a method; arrows are short or have one of these around them.
fn javascript_name(line: &str) -> Option<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    if let Some(place) = line.find("function") {
        return Some(word(line[place + 8..].trim_start_matches(['*', ' '])));
    }
    let method = line.trim_start().trim_start_matches("async ");
    let name = word(method);
    let is_call = method[name.len()..].starts_with('(') && line.trim_end().ends_with('{');
    let is_keyword = matches!(name.as_str(), "if" | "for" | "while" | "switch" | "catch" | "");
    (is_call && !is_keyword).then_some(name)
}

/// Python's functions: `def` and every deeper or empty line behind it.
fn indented(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let mut functions = vec![];
    for (at, line) in lines.iter().enumerate() {
        let Some(rest) = line.trim_start().trim_start_matches("async ").strip_prefix("def ") else {
            continue;
        };
        let depth = indentation(line);
        let is_body = |line: &&&str| {
            line.trim().is_empty() || indentation(line) > depth || line.trim_start().starts_with(')')
        };
        let body: Vec<_> = lines[at + 1..].iter().take_while(is_body).collect();
        let blank = body.iter().rev().take_while(|line| line.trim().is_empty()).count();
        let name = rest.split('(').next().unwrap_or_default().to_owned();
        functions.push(Function { name, line: at + 1, lines: 1 + body.len() - blank });
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> String {
        "    f();\n".repeat(count)
    }

    #[test]
    fn a_file_of_501_lines_is_found_and_its_tests_do_not_count() {
        let code = "//! x\n".repeat(501);
        assert_eq!(long_file(&Source::new("a.rs", &code)).len(), 1);
        assert_eq!(long_file(&Source::new("a.sh", &code)).len(), 1);
        assert_eq!(long_file(&Source::new("a.md", &code)).len(), 0);
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "fn a() {}\n".repeat(500), lines(100));
        assert_eq!(long_file(&Source::new("a.rs", &tested)), []);
        let untested = format!("#[cfg(test)]\nmod tests;\n{}", "fn a() {}\n".repeat(501));
        assert_eq!(long_file(&Source::new("a.rs", &untested)).len(), 1);
    }

    #[test]
    fn a_rust_function_of_71_lines_is_found() {
        let of = |count| {
            format!(
                "impl A {{\n    /// fn x() {{\n    pub fn a(\n    ) -> [u8; 2] {{\n{}    }}\n}}\n",
                lines(count)
            )
        };
        let source = Source::new("a.rs", &of(68));
        assert_eq!(long_functions(&source)[0].line, 3);
        assert_eq!(long_functions(&Source::new("a.rs", &of(67))), []);
        let declared = format!("trait A {{\n    fn a(b: [u8; 2]);\n{}}}\n", lines(90));
        assert_eq!(long_functions(&Source::new("a.rs", &declared)), []);
    }

    #[test]
    fn brackets_that_do_not_match_are_found() {
        assert_eq!(not_understood(&Source::new("a.rs", "fn a() { b('{', \"(\") } // ]")), []);
        assert_eq!(not_understood(&Source::new("a.rs", "fn a() { b(\"x) }")).len(), 2);
        assert_eq!(not_understood(&Source::new("a.js", "f(`${a} {`, '[');")), []);
    }

    #[test]
    fn javascript_and_python_functions_are_measured() {
        let javascript =
            format!("async function a() {{\n{}}}\nclass B {{\n  c() {{\n{}  }}\n}}\n", lines(69), lines(70));
        let found = long_functions(&Source::new("a.js", &javascript));
        assert_eq!(found.len(), 2, "{found:?}");
        let python = format!(
            "class A:\n    def b(self):\n{}\n    def c(self):\n        pass\n",
            "        f()\n".repeat(70)
        );
        let found = long_functions(&Source::new("a.py", &python));
        assert_eq!(found.len(), 1);
        assert!(found[0].problem.contains("`b` has 71"), "{found:?}");
    }
}
