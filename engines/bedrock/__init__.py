"""Amazon Bedrock's Converse, as the provider speaks it. Imported only where an endpoint asks for it: botocore is large."""
