//! Writing MessagePack that an older release can read, for as long as nothing is said that it does not know.
//!
//! Structs are arrays, without names. A release reads an array that is shorter than its struct, for the fields behind
//! have `#[serde(default)]`; one that is longer it refuses, and must: it could only drop what it does not know. So a
//! field that came later is written only where it says something. Such a field carries
//! `#[serde(default, serialize_with = "later")]`, and those of them at the end of a struct that have their default are
//! left out. One that stands before a field that says something is written, default or not: what is read by its place
//! must stand in its place.
//!
//! Hence a release that knows a field more writes, while nobody uses the field, the very bytes of the release before
//! it, and the two have the same hash of the same state.
//!
//! Apart from that, the bytes are those of `rmp_serde`, which reads them.

use std::io;

use rmp::encode;
use rmp_serde::encode::Error;
use serde::ser::{
    Error as _, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant,
};
use serde::{Serialize, Serializer};

/// The name under which a field is handed over that has its default. No type has it.
const AT_DEFAULT: &str = "$chronarch::at_default";

/// Writes a field that came later than its struct; see the module.
pub(super) fn later<T, S>(value: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Serialize + Default + PartialEq,
    S: Serializer,
{
    unless(*value == T::default(), value, serializer)
}

/// As [`later`], for a field with a default of its own.
pub(super) fn unless<T, S>(is_default: bool, value: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Serialize,
    S: Serializer,
{
    if is_default {
        serializer.serialize_newtype_struct(AT_DEFAULT, value)
    } else {
        value.serialize(serializer)
    }
}

/// Adds `value` to `out`.
pub(super) fn write<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), Error> {
    value.serialize(&mut Packer { out, at_default: false })
}

/// Writes values one behind the other.
struct Packer<'a> {
    out: &'a mut Vec<u8>,
    /// The value that was just written is a field that has its default.
    at_default: bool,
}

impl Packer<'_> {
    fn array(&mut self, length: usize) -> Result<(), Error> {
        encode::write_array_len(self.out, count(length)?)?;
        Ok(())
    }

    fn map(&mut self, length: usize) -> Result<(), Error> {
        encode::write_map_len(self.out, count(length)?)?;
        Ok(())
    }

    /// A variant that has something in it: a map of one, from its name.
    fn variant(&mut self, name: &'static str) -> Result<(), Error> {
        self.map(1)?;
        self.serialize_str(name)
    }
}

fn count(length: usize) -> Result<u32, Error> {
    u32::try_from(length).map_err(Error::custom)
}

/// What has a length of its own: each element is written where it stands.
struct Elements<'p, 'a>(&'p mut Packer<'a>);

/// A struct, of which the last fields may turn out to say nothing.
struct Fields<'p, 'a> {
    packer: &'p mut Packer<'a>,
    /// Where its array begins, and the first field in it.
    begins: usize,
    body: usize,
    written: usize,
    /// So many of the fields are to stay, and end here.
    stay: usize,
    stay_until: usize,
}

impl<'p, 'a> Fields<'p, 'a> {
    fn begin(packer: &'p mut Packer<'a>, fields: usize) -> Result<Self, Error> {
        let begins = packer.out.len();
        packer.array(fields)?;
        let body = packer.out.len();
        Ok(Self { packer, begins, body, written: 0, stay: 0, stay_until: body })
    }

    fn field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.packer.at_default = false;
        value.serialize(&mut *self.packer)?;
        self.written += 1;
        if !std::mem::take(&mut self.packer.at_default) {
            (self.stay, self.stay_until) = (self.written, self.packer.out.len());
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        if self.stay == self.written {
            return Ok(());
        }
        self.packer.out.truncate(self.stay_until);
        let mut head = Vec::with_capacity(self.body - self.begins);
        encode::write_array_len(&mut head, count(self.stay)?)?;
        self.packer.out.splice(self.begins..self.body, head);
        Ok(())
    }
}

impl<'p, 'a> Serializer for &'p mut Packer<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Elements<'p, 'a>;
    type SerializeTuple = Elements<'p, 'a>;
    type SerializeTupleStruct = Elements<'p, 'a>;
    type SerializeTupleVariant = Elements<'p, 'a>;
    type SerializeMap = Elements<'p, 'a>;
    type SerializeStruct = Fields<'p, 'a>;
    type SerializeStructVariant = Fields<'p, 'a>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        encode::write_bool(self.out, value).map_err(Error::custom)
    }

    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Error> {
        encode::write_sint(self.out, value)?;
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Error> {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Error> {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Error> {
        encode::write_uint(self.out, value)?;
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        encode::write_f32(self.out, value)?;
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        encode::write_f64(self.out, value)?;
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        encode::write_str(self.out, value)?;
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        encode::write_bin(self.out, value)?;
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        encode::write_nil(self.out).map_err(Error::custom::<io::Error>)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        self.array(0)
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(&mut *self)?;
        self.at_default = name == AT_DEFAULT;
        Ok(())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(variant)?;
        value.serialize(self)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Elements<'p, 'a>, Error> {
        self.array(length.ok_or_else(|| Error::custom("a list must know its length"))?)?;
        Ok(Elements(self))
    }

    fn serialize_tuple(self, length: usize) -> Result<Elements<'p, 'a>, Error> {
        self.array(length)?;
        Ok(Elements(self))
    }

    fn serialize_tuple_struct(self, _name: &'static str, length: usize) -> Result<Elements<'p, 'a>, Error> {
        self.serialize_tuple(length)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Elements<'p, 'a>, Error> {
        self.variant(variant)?;
        self.serialize_tuple(length)
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Elements<'p, 'a>, Error> {
        self.map(length.ok_or_else(|| Error::custom("a map must know its length"))?)?;
        Ok(Elements(self))
    }

    fn serialize_struct(self, _name: &'static str, length: usize) -> Result<Fields<'p, 'a>, Error> {
        Fields::begin(self, length)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Fields<'p, 'a>, Error> {
        self.variant(variant)?;
        Fields::begin(self, length)
    }
}

impl SerializeSeq for Elements<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut *self.0)
    }

    fn end(self) -> Result<(), Error> {
        self.0.at_default = false;
        Ok(())
    }
}

impl SerializeTuple for Elements<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Error> {
        SerializeSeq::end(self)
    }
}

impl SerializeTupleStruct for Elements<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Error> {
        SerializeSeq::end(self)
    }
}

impl SerializeTupleVariant for Elements<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Error> {
        SerializeSeq::end(self)
    }
}

impl SerializeMap for Elements<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Error> {
        SerializeSeq::end(self)
    }
}

impl SerializeStruct for Fields<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, _key: &'static str, value: &T) -> Result<(), Error> {
        self.field(value)
    }

    fn skip_field(&mut self, key: &'static str) -> Result<(), Error> {
        // Whatever stood behind would be read in its place.
        Err(Error::custom(format!("field {key} is left out by itself")))
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

impl SerializeStructVariant for Fields<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, _key: &'static str, value: &T) -> Result<(), Error> {
        self.field(value)
    }

    fn skip_field(&mut self, key: &'static str) -> Result<(), Error> {
        Err(Error::custom(format!("field {key} is left out by itself")))
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

#[cfg(test)]
mod tests;
