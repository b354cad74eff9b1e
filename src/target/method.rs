//! The methods of an http target.

/// The request methods that a job may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// GET, the default.
    #[default]
    Get,
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
    /// HEAD
    Head,
}

/// The text is not a request method that a job may use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown method {0:?}: one of GET, POST, PUT, PATCH, DELETE, HEAD")]
pub struct UnknownMethod(String);

impl std::str::FromStr for Method {
    type Err = UnknownMethod;

    /// Reads a method's name in any case.
    ///
    /// # Errors
    /// [`UnknownMethod`] for anything but the six names.
    fn from_str(text: &str) -> Result<Self, UnknownMethod> {
        Ok(match text.to_ascii_uppercase().as_str() {
            "GET" => Self::Get,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "HEAD" => Self::Head,
            _ => return Err(UnknownMethod(text.chars().take(32).collect())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_read_in_any_case_and_nothing_else_is_a_method() {
        assert_eq!("patch".parse(), Ok(Method::Patch));
        assert!("TRACE".parse::<Method>().is_err());
        assert!("GET\r\nx".parse::<Method>().is_err());
    }
}
